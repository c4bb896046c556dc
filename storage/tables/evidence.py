"""Queries for the evidence on which the completion of a study is decided. They only read."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from storage.records.deliveries import DeliveryState
from storage.records.evidence import (
    FeedingAssociation,
    InstanceEvidence,
    SourceAnswer,
    StepEvidence,
    StudyContents,
    StudyEvidence,
)
from storage.records.instances import Facts
from storage.records.studies import Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import chunks
from storage.tables.patients import study_identities


def study_evidence(session: Session, study_instance_uid: str | None) -> list[StudyEvidence]:
    """Return the evidence of all studies in RECEIVING, the oldest first, or of one of them."""
    study = schema.StudyRow
    here = study.state == StudyState.RECEIVING
    if study_instance_uid is not None:
        here = and_(here, study.study_instance_uid == study_instance_uid)
    statement = select(
        study.study_instance_uid, study.revision, study.instances, study.revision_started_at, study.last_received_at
    ).where(here)
    rows = session.execute(statement.order_by(study.first_received_at)).all()
    if not rows:
        return []
    associations = _associations(session, here)
    believed, strangers = _believed_steps(session, here)
    answers = _answers(session, here)
    return [
        StudyEvidence(
            *row,
            associations=tuple(associations[row[0]]),
            steps=tuple((word.sop_instance_uid, word.state) for word in believed[row[0]]),
            strangers=tuple(sorted(strangers[row[0]])),
            answers=tuple(answers[row[0]]),
        )
        for row in rows
    ]


def study_contents(session: Session, study_instance_uid: str) -> StudyContents:
    """Return the evidence of every instance of a study, and of its procedure steps."""
    instance, own = schema.InstanceRow, schema.OwnInstanceRow
    instances = session.execute(
        select(
            instance.sop_instance_uid,
            instance.sop_class_uid,
            instance.series_instance_uid,
            instance.received_at,
            instance.facts,
            own.sop_instance_uid,
        )
        .outerjoin(own, own.sop_instance_uid == instance.sop_instance_uid)
        .where(instance.study_instance_uid == study_instance_uid)
    ).all()
    believed, _ = _believed_steps(session, schema.StudyRow.study_instance_uid == study_instance_uid)
    steps = [(word.state, word.referenced, word.ended_at) for word in believed[study_instance_uid]]
    here = {row[0] for row in instances}
    elsewhere = _known(session, sorted({uid for _, listed, _ in steps for uid in listed} - here))
    return StudyContents(
        instances=tuple(
            InstanceEvidence(uid, sop_class, series, at, Facts.from_json(facts), mine is not None)
            for uid, sop_class, series, at, facts, mine in instances
        ),
        steps=tuple(StepEvidence(state, frozenset(listed), at) for state, listed, at in steps),
        elsewhere=elsewhere,
        identities=study_identities(session, study_instance_uid),
    )


def count_own_results(session: Session, study_instance_uid: str, destination: str) -> int:
    """Count the results of this node that were delivered to `destination` for a study, or came back from anywhere."""
    target, delivery, instance = schema.ResultObjectRow, schema.DeliveryRow, schema.InstanceRow
    delivered = select(delivery.id).where(
        delivery.object_id == target.id,
        delivery.destination == destination,
        delivery.state.in_((DeliveryState.SENT, DeliveryState.COMMITTED)),
    )
    back = select(instance.sop_instance_uid).where(
        instance.sop_instance_uid == target.sop_instance_uid, instance.study_instance_uid == study_instance_uid
    )
    statement = select(func.count(target.id)).where(
        target.study_instance_uid == study_instance_uid, or_(delivered.exists(), back.exists())
    )
    return session.scalar(statement) or 0


def _known(session: Session, sop_instance_uids: Sequence[str]) -> frozenset[str]:
    """Return the given instances that are indexed."""
    uid = schema.InstanceRow.sop_instance_uid
    found = (session.scalars(select(uid).where(uid.in_(chunk))) for chunk in chunks(sop_instance_uids))
    return frozenset(indexed for uids in found for indexed in uids)


def _associations(session: Session, here: ColumnElement[bool]) -> dict[str, list[FeedingAssociation]]:
    study, feed, association = schema.StudyRow, schema.FeedRow, schema.AssociationRow
    found: dict[str, list[FeedingAssociation]] = defaultdict(list)
    for uid, calling, opened_at, ended_at, end in session.execute(
        select(
            study.study_instance_uid,
            association.calling_ae_title,
            association.opened_at,
            association.ended_at,
            association.ended,
        )
        .join(feed, and_(feed.study_instance_uid == study.study_instance_uid, feed.revision == study.revision))
        .join(association, association.id == feed.association_id)
        .where(here)
        .order_by(association.opened_at, association.id)
    ):
        found[uid].append(FeedingAssociation(calling, opened_at, ended_at, end))
    return found


_Word = schema.ProcedureStepRow | schema.ProcedureStepStatementRow
_Words = dict[str, list[_Word]]


def _believed_steps(session: Session, here: ColumnElement[bool]) -> tuple[_Words, dict[str, set[str]]]:
    """Return, for each study, the word that counts about each of its procedure steps, and the hosts that do not count.

    The word of a configured peer counts, and that of a host that sent images of the study. Anyone else may know nothing
    of the study, and could hold it or end it early. A step counts itself if its hosts were not noted yet, as in earlier
    versions.
    """
    study, of, step = schema.StudyRow, schema.ProcedureStepStudyRow, schema.ProcedureStepRow
    word = schema.ProcedureStepStatementRow
    hosts = _hosts(session, here)
    found: dict[str, dict[str, _Word]] = defaultdict(dict)
    strangers: dict[str, set[str]] = defaultdict(set)
    for uid, itself, said in session.execute(
        select(study.study_instance_uid, step, word)
        .join(of, of.study_instance_uid == study.study_instance_uid)
        .join(step, step.sop_instance_uid == of.sop_instance_uid)
        .outerjoin(word, word.sop_instance_uid == step.sop_instance_uid)
        .where(here)
        .order_by(step.created_at, step.sop_instance_uid, word.sequence)
    ):
        if said is not None and said.host and said.host not in hosts[uid]:
            strangers[uid].add(said.host)
        else:
            found[uid][itself.sop_instance_uid] = itself if said is None else said  # the last one stands
    return defaultdict(list, {uid: list(words.values()) for uid, words in found.items()}), strangers


def _hosts(session: Session, here: ColumnElement[bool]) -> dict[str, set[str]]:
    """Return the hosts that sent images of each study, in any revision."""
    study, feed, association = schema.StudyRow, schema.FeedRow, schema.AssociationRow
    found: dict[str, set[str]] = defaultdict(set)
    for uid, host in session.execute(
        select(study.study_instance_uid, association.peer_host)
        .join(feed, feed.study_instance_uid == study.study_instance_uid)
        .join(association, association.id == feed.association_id)
        .where(here)
        .distinct()
    ):
        found[uid].add(host)
    return found


def _answers(session: Session, here: ColumnElement[bool]) -> dict[str, list[SourceAnswer]]:
    study, event = schema.StudyRow, schema.EventRow
    found: dict[str, list[SourceAnswer]] = defaultdict(list)
    for uid, at, data in session.execute(
        select(study.study_instance_uid, event.at, event.data)
        .join(event, and_(event.study_instance_uid == study.study_instance_uid, event.revision == study.revision))
        .where(here, event.stage == Stage.ASKED)
        .order_by(event.id)
    ):
        found[uid].append(SourceAnswer(at, data["source"], data["count"], data["own"], data["problem"]))
    return found
