"""The installation; problems and acknowledgements; the side of a job; patients and places of instances."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    _add_subjects()
    _place_instances()
    op.create_table(
        "procedure_step_statement",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("referenced", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("created", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["sop_instance_uid"], ["procedure_step.sop_instance_uid"]),
        sa.PrimaryKeyConstraint("sop_instance_uid", "host"),
    )
    op.create_table(
        "machine_clock",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=False),
        sa.Column("offset_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("host"),
    )
    op.create_table(
        "installation",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("identity", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "problem",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key"),
    )
    op.create_index("ix_problem_study", "problem", ["study_instance_uid"], unique=False)
    op.create_table(
        "acknowledgement",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key"),
    )
    op.add_column("job", sa.Column("side", sa.String(length=1), server_default="", nullable=False))
    op.add_column("job", sa.Column("beside", sa.String(length=1), server_default="", nullable=False))
    op.add_column("delivery", sa.Column("may_have_arrived", sa.Boolean(), nullable=False, server_default=sa.false()))
    # Earlier versions did not note whether the last try may have arrived.
    op.execute("UPDATE delivery SET may_have_arrived = true WHERE state IN ('RETRYING', 'FAILED')")
    op.add_column("delivery", sa.Column("waited_seconds", sa.Double(), nullable=False, server_default="0"))
    op.add_column("commitment", sa.Column("waited_seconds", sa.Double(), nullable=False, server_default="0"))
    op.add_column("delivery", sa.Column("warning", sa.String(), nullable=False, server_default=""))
    op.add_column("delivery", sa.Column("coerced", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("delivery", sa.Column("stored_as", sa.JSON(), nullable=True))
    op.add_column("study", sa.Column("report_marked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_study_report", "study", ["report_marked_at"], unique=False)
    op.add_column("job", sa.Column("why", sa.String(length=32), nullable=True))
    _name_applications_of_reports()


def _name_applications_of_reports() -> None:
    """Let each report of no result list its application, as reports on several applications do."""
    job = sa.table(
        "job", sa.column("id", sa.Integer), sa.column("application", sa.String), sa.column("kind", sa.String),
        sa.column("detail", sa.JSON),
    )  # fmt: skip
    connection = op.get_bind()
    for row in connection.execute(sa.select(job).where(job.c.kind == "NO_RESULT")).all():
        detail = {**row.detail, "applications": [{"application": row.application, **row.detail}], "contents": ""}
        connection.execute(sa.update(job).where(job.c.id == row.id).values(detail=detail))


def _add_subjects() -> None:
    op.create_table(
        "subject",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("hashes", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest", name="uq_subject_digest"),
    )
    op.create_table(
        "aside",
        sa.Column("file", sa.String(length=255), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("filed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("file"),
    )
    op.create_index("ix_aside_sop_instance", "aside", ["sop_instance_uid"], unique=False)


def _place_instances() -> None:
    """Make the place of an instance its key. SQLite cannot change a key, so the tables are written anew."""
    key = ("sop_instance_uid", "series_instance_uid", "study_instance_uid")
    op.create_table(
        "placed",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("file", sa.String(), nullable=True),
        sa.Column("subject_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["study_instance_uid"], ["study.study_instance_uid"]),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"]),
        sa.PrimaryKeyConstraint(*key),
    )
    op.execute(
        "INSERT INTO placed (sop_instance_uid, series_instance_uid, study_instance_uid, sop_class_uid, "
        "transfer_syntax_uid, modality, size, sha256, received_at, revision, facts, file) "
        "SELECT sop_instance_uid, series_instance_uid, study_instance_uid, sop_class_uid, "
        "transfer_syntax_uid, modality, size, sha256, received_at, revision, facts, file FROM instance"
    )
    op.create_table(
        "placed_version",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("file", sa.String(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("subject_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(key, [f"placed.{column}" for column in key]),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"]),
        sa.PrimaryKeyConstraint(*key, "sha256"),
    )
    op.execute(
        "INSERT INTO placed_version "
        "(sop_instance_uid, series_instance_uid, study_instance_uid, sha256, file, received_at) "
        "SELECT v.sop_instance_uid, i.series_instance_uid, i.study_instance_uid, v.sha256, v.file, v.received_at "
        "FROM instance_version v JOIN instance i ON i.sop_instance_uid = v.sop_instance_uid"
    )
    op.drop_table("instance_version")
    op.drop_table("instance")
    op.rename_table("placed", "instance")
    op.rename_table("placed_version", "instance_version")
    op.create_index("ix_instance_study_series", "instance", ["study_instance_uid", "series_instance_uid"], unique=False)
