"""Receiving: facts and versions of instances, priorities, procedure steps, commitments."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("association", sa.Column("key", sa.String(length=64), nullable=True))
    op.create_index("uq_association_key", "association", ["key"], unique=True)
    op.add_column("study", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("instance", sa.Column("facts", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("instance", sa.Column("file", sa.String(), nullable=True))
    op.create_table(
        "instance_version",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("file", sa.String(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["sop_instance_uid"], ["instance.sop_instance_uid"]),
        sa.PrimaryKeyConstraint("sop_instance_uid", "sha256"),
    )
    op.create_table(
        "procedure_step",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("source_ae_title", sa.String(length=16), nullable=False),
        sa.Column("referenced", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    op.create_table(
        "procedure_step_study",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["sop_instance_uid"], ["procedure_step.sop_instance_uid"]),
        sa.PrimaryKeyConstraint("sop_instance_uid", "study_instance_uid"),
    )
    op.create_index("ix_procedure_step_study", "procedure_step_study", ["study_instance_uid"], unique=False)
    op.create_table(
        "commitment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("peer_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_host", sa.String(length=255), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("association", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("peer_ae_title", "transaction_uid", name="uq_commitment_transaction"),
    )
    op.create_index("ix_commitment_state", "commitment", ["state", "run_after"], unique=False)
