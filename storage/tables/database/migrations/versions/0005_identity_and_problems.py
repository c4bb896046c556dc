"""The identity of the installation; problems, what a person has acknowledged of them; the side of a job."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
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
    op.add_column("delivery", sa.Column("waited_seconds", sa.Double(), nullable=False, server_default="0"))
    op.add_column("delivery", sa.Column("warning", sa.String(), nullable=False, server_default=""))
    op.add_column("delivery", sa.Column("coerced", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("delivery", sa.Column("stored_as", sa.JSON(), nullable=True))
