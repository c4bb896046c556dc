"""The timeline of a study: written in the transaction of what it tells about."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.records.studies import Event
from storage.tables import schema


def add_event(
    session: Session,
    now: datetime,
    study_instance_uid: str,
    revision: int,
    stage: str,
    text: str,
    job_id: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """`stage` is one of those of `storage.records.studies.Event`; neither `text` nor `data` names a patient."""
    session.add(
        schema.Event(
            at=now,
            study_instance_uid=study_instance_uid,
            revision=revision,
            stage=stage,
            text=text,
            job_id=job_id,
            data=dict(data or {}),
        )
    )


def events(session: Session, study_instance_uid: str) -> list[Event]:
    rows = session.scalars(
        select(schema.Event).where(schema.Event.study_instance_uid == study_instance_uid).order_by(schema.Event.id)
    )
    return [
        Event(
            at=row.at,
            study_instance_uid=row.study_instance_uid,
            revision=row.revision,
            stage=row.stage,
            text=row.text,
            job_id=row.job_id,
            data=row.data,
        )
        for row in rows
    ]
