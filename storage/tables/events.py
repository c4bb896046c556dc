"""The timelines of studies. An event is added in the transaction of the change that it describes."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.records.studies import Event
from storage.tables.database import schema


def add_event(session: Session, event: Event) -> None:
    session.add(
        schema.EventRow(
            at=event.at,
            study_instance_uid=event.study_instance_uid,
            revision=event.revision,
            stage=event.stage,
            text=event.text,
            job_id=event.job_id,
            data=dict(event.data),
        )
    )


def events(session: Session, study_instance_uid: str) -> list[Event]:
    rows = session.scalars(
        select(schema.EventRow)
        .where(schema.EventRow.study_instance_uid == study_instance_uid)
        .order_by(schema.EventRow.id)
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
