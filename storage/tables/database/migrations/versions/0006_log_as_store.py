"""Instances lie in segments; their hashes and kept headers have columns; what is kept aside has a reason."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "segment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("receiver", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("receiver", "number", name="uq_segment_receiver_number"),
    )
    op.create_table(
        "journal",
        sa.Column("receiver", sa.String(length=64), nullable=False),
        sa.Column("segment", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("life", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("receiver"),
    )
    op.create_table(
        "shared_header",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("list_version", sa.Integer(), nullable=False),
        sa.Column("kept", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_shared_header_list_version", "shared_header", ["list_version"], unique=False)
    op.create_index(
        "ix_shared_header_series", "shared_header", ["study_instance_uid", "series_instance_uid"], unique=False
    )
    _keep_aside()
    for table in ("instance", "instance_version", "aside"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN segment_id INTEGER REFERENCES segment (id)")
        op.create_index(f"ix_{table}_segment_id", table, ["segment_id"], unique=False)
        op.add_column(table, sa.Column("frame_offset", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("body_offset", sa.BigInteger(), nullable=True))
    for table in ("instance", "instance_version"):
        op.add_column(table, sa.Column("pixels_sha256", sa.String(length=64), nullable=True))
        op.add_column(table, sa.Column("rest_sha256", sa.String(length=64), nullable=True))
    op.add_column("instance_version", sa.Column("size", sa.BigInteger(), nullable=True))
    op.execute("ALTER TABLE instance ADD COLUMN shared_header_id INTEGER REFERENCES shared_header (id)")
    op.add_column("instance", sa.Column("kept", sa.LargeBinary(), nullable=True))
    op.create_table(
        "own_instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    op.execute("INSERT INTO own_instance SELECT DISTINCT sop_instance_uid FROM result_object")
    op.create_table(
        "repeated",
        sa.Column("segment_id", sa.Integer(), sa.ForeignKey("segment.id"), nullable=False),
        sa.Column("frame_offset", sa.BigInteger(), nullable=False),
        sa.Column("body_offset", sa.BigInteger(), nullable=True),
        sa.Column("file", sa.String(), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("segment_id", "frame_offset"),
    )
    op.create_index("ix_repeated_study", "repeated", ["study_instance_uid"], unique=False)
    op.add_column("study", sa.Column("routed_subject", sa.String(length=64), nullable=True))
    op.drop_index("ix_delivery_destination_state", "delivery")
    op.create_index("ix_delivery_state_destination", "delivery", ["state", "destination", "run_after"], unique=False)
    op.create_index("ix_instance_version_study", "instance_version", ["study_instance_uid"], unique=False)
    op.create_index("ix_job_study_state", "job", ["study_instance_uid", "state"], unique=False)
    # A row that others may refer to is deleted only after a search for these.
    for table, column in (
        ("instance", "shared_header_id"),
        ("instance", "subject_id"),
        ("instance_version", "subject_id"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column], unique=False)


def _keep_aside() -> None:
    op.create_table(
        "contested",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("aside_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("filed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    op.execute(
        "INSERT INTO contested SELECT sop_instance_uid, max(received_at), max(filed_at) FROM aside "
        "GROUP BY sop_instance_uid"
    )
    op.drop_column("aside", "filed_at")
    op.execute("ALTER TABLE aside RENAME COLUMN file TO place")
    op.add_column("aside", sa.Column("file", sa.String(), nullable=True))
    for column in ("series_instance_uid", "study_instance_uid"):
        op.add_column("aside", sa.Column(column, sa.String(length=64), nullable=False, server_default=""))
    op.add_column("aside", sa.Column("size", sa.BigInteger(), nullable=True))
    op.add_column("aside", sa.Column("sha256", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("aside", sa.Column("reason", sa.String(length=255), nullable=False, server_default=""))
    op.drop_index("ix_aside_sop_instance", "aside")
    op.create_index("ix_aside_sop_instance", "aside", ["sop_instance_uid", "sha256"], unique=False)
    op.create_index("ix_aside_study", "aside", ["study_instance_uid"], unique=False)
