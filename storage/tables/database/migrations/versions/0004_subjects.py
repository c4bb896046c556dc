"""The patient of a study, as a keyed hash."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("study", sa.Column("subject", sa.String(length=64), nullable=True))
    op.create_index("ix_study_subject", "study", ["subject"], unique=False)
