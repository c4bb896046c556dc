"""Results: kinds of jobs, objects that stand for others, confirmations of storage."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("job", sa.Column("kind", sa.String(length=16), nullable=False, server_default="ANALYSIS"))
    op.add_column("job", sa.Column("detail", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("result_object", sa.Column("stands_for", sa.String(length=16), nullable=False, server_default=""))
    op.add_column("result_object", sa.Column("destinations", sa.JSON(), nullable=False, server_default="[]"))
    op.create_table(
        "confirmation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("transaction_uid", name="uq_confirmation_transaction"),
    )
    op.create_index("ix_confirmation_state", "confirmation", ["state", "destination"], unique=False)
    with op.batch_alter_table("delivery") as delivery:  # SQLite cannot add a foreign key to a table that is there
        delivery.add_column(sa.Column("confirmation_id", sa.Integer(), nullable=True))
        delivery.add_column(sa.Column("resends", sa.Integer(), nullable=False, server_default="0"))
        delivery.create_foreign_key("fk_delivery_confirmation", "confirmation", ["confirmation_id"], ["id"])
    op.create_index("ix_delivery_confirmation", "delivery", ["confirmation_id", "destination", "state"], unique=False)
