"""The states of a study's current revision: RECEIVING → COMPLETE → ROUTED or IGNORED.

Every transition requires the state and the revision from which it starts, so only one of two processes can make it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, true, update
from sqlalchemy.orm import Session

from storage.records.completion import Completion
from storage.records.evidence import (
    SourceAnswer,
    StudyContents,
    StudyEvidence,
)
from storage.records.jobs import JobKind, NewJob, of_side
from storage.records.patients import IdentityConflict
from storage.records.problems import ProblemKind
from storage.records.routing import EarlyStart, RoutingDecision
from storage.records.studies import Event, Stage, Study, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed
from storage.tables.events import add_event, events
from storage.tables.evidence import count_own_results, study_contents, study_evidence
from storage.tables.problems import close_problem, open_problem
from storage.tables.queueing import (
    cancel,
    enqueue_unless_standing,
    hold_jobs,
    mark_for_report,
    start,
    study_record,
    supersede_unfit,
)


class Studies:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- completion ----------------------------------------------------------------------------------------------------

    def evidence(self, study_instance_uid: str | None = None) -> list[StudyEvidence]:
        """Return the evidence of every study in RECEIVING, or of one of them, without reading instances."""
        with self._database.reading() as session:
            return study_evidence(session, study_instance_uid)

    def contents(self, study_instance_uid: str) -> StudyContents:
        """Return the evidence of every instance of a study, and of its procedure steps."""
        with self._database.reading() as session:
            return study_contents(session, study_instance_uid)

    def own_at(self, study_instance_uid: str, destination: str) -> int:
        """Return the number of results of this node that a PACS is known to hold of a study.

        These are the results that were delivered to the PACS, and results that came back.
        """
        with self._database.reading() as session:
            return count_own_results(session, study_instance_uid, destination)

    def answered(self, study_instance_uid: str, revision: int, answer: SourceAnswer) -> bool:
        """Keep the answer of the source PACS. Return False if the study is no longer RECEIVING at this revision."""
        if answer.count is None:
            text = f"{answer.source} gives no count of the study: {answer.problem}"
        else:
            text = f"{answer.source} counts {answer.count} instance{'s' if answer.count != 1 else ''}"
            if answer.own:
                text += f", {answer.own} of them results of this node"
        data = {"source": answer.source, "count": answer.count, "own": answer.own, "problem": answer.problem}
        with self._database.session() as session:
            if not _held(session, study_instance_uid, revision):
                return False
            add_event(session, Event(answer.at, study_instance_uid, revision, Stage.ASKED, text, data=data))
            return True

    def complete(self, evidence: StudyEvidence, completion: Completion, now: datetime) -> bool:
        """Move the study from RECEIVING to COMPLETE.

        Return False if the study has changed since `evidence` was read; the decision must then be made again.
        """
        reason = completion.reason
        uid, revision = evidence.study_instance_uid, evidence.revision
        study = schema.StudyRow
        unchanged = and_(study.instances == evidence.instances, study.last_received_at == evidence.last_received_at)
        with self._database.session() as session:
            if not _move(session, uid, revision, StudyState.RECEIVING, StudyState.COMPLETE, reason, unchanged):
                return False
            add_event(session, Event(now, uid, revision, Stage.COMPLETE, reason, data=completion.to_json()))
            return True

    # -- routing -------------------------------------------------------------------------------------------------------

    def completed(self) -> list[Study]:
        """Return the studies in COMPLETE, oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(schema.StudyRow)
                .where(schema.StudyRow.state == StudyState.COMPLETE)
                .order_by(schema.StudyRow.last_received_at)
            )
            return [study_record(row) for row in rows]

    def route(
        self,
        study_instance_uid: str,
        revision: int,
        reason: str,
        jobs: Sequence[NewJob],
        decision: RoutingDecision,
        now: datetime,
        warnings: Sequence[str] = (),
    ) -> bool:
        """Move the study from COMPLETE to ROUTED and enqueue the jobs, in one transaction.

        Return False if the study is no longer COMPLETE. Each of `warnings` becomes a line of the timeline. The study is
        marked, so that its report of no result is decided (`NoResults`).

        A job is not enqueued if one with the same application and fingerprint has succeeded or is in the queue. Other
        analyses of the study are superseded, except those of the side beside it, and also those of applications that do
        not apply: a waiting job is CANCELLED, and a running job is cancelled when it ends, without a delivery.
        """
        end = StudyState.ROUTED
        return self._settle(study_instance_uid, revision, end, reason, jobs, decision, now, warnings)

    def start_early(self, job: NewJob, early: EarlyStart, now: datetime) -> bool:
        """Enqueue a job whose inputs are complete while its study still arrives. The study stays RECEIVING.

        Return False if the study is no longer RECEIVING at the job's revision, if this application was started early on
        this side in this revision before, or if there was a job with the same instances before, whatever its outcome.
        `route` decides again when the study is complete.
        """
        known = schema.JobRow
        with self._database.session() as session:
            if not _held(session, job.study_instance_uid, job.revision):
                return False
            hold_jobs(session, job.study_instance_uid, job.application)
            tried = select(known.id).where(
                known.study_instance_uid == job.study_instance_uid,
                known.application == job.application,
                known.side == job.side,
                or_(known.revision == job.revision, known.fingerprint == job.fingerprint),
            )
            if session.scalar(tried.limit(1)) is not None:
                return False
            name = of_side(job.application, job.side)
            text = f"{name}: starts before the study is complete, its inputs are: {early.evidence}"
            add_event(
                session, Event(now, job.study_instance_uid, job.revision, Stage.EARLY, text, data=early.to_json())
            )
            start(session, job, now)
            return True

    def ignore(
        self,
        study_instance_uid: str,
        revision: int,
        reason: str,
        decision: RoutingDecision,
        now: datetime,
        warnings: Sequence[str] = (),
    ) -> bool:
        """Move the study from COMPLETE to IGNORED, because no application applies. Return False in other states."""
        return self._settle(study_instance_uid, revision, StudyState.IGNORED, reason, (), decision, now, warnings)

    def _settle(
        self,
        study_instance_uid: str,
        revision: int,
        end: StudyState,
        reason: str,
        jobs: Sequence[NewJob],
        decision: RoutingDecision,
        now: datetime,
        warnings: Sequence[str],
    ) -> bool:
        with self._database.session() as session:
            if not _move(session, study_instance_uid, revision, StudyState.COMPLETE, end, reason):
                return False
            _keep_decision(session, study_instance_uid, revision, decision, now)
            add_event(session, Event(now, study_instance_uid, revision, Stage.ROUTED, reason))
            _warn(session, study_instance_uid, revision, warnings, now)
            supersede_unfit(session, study_instance_uid, revision, [job.application for job in jobs], now)
            mark_for_report(session, study_instance_uid, now)
            _close_identity_problems(session, study_instance_uid)
            _close_routing_problems(session, study_instance_uid)
            for job in jobs:
                hold_jobs(session, job.study_instance_uid, job.application)
                enqueue_unless_standing(session, job, now)
            return True

    def refuse(
        self, study_instance_uid: str, revision: int, conflict: IdentityConflict, reason: str, now: datetime
    ) -> bool:
        """Move the study from COMPLETE to IGNORED, because its instances state different patients.

        Jobs of earlier revisions that have not ended are superseded, and nothing is reported to any destination,
        because every object carries one patient. A problem says what is wrong; it ends when the study is routed again
        without a conflict. Return False if the study is no longer COMPLETE.
        """
        job = schema.JobRow
        kind = ProblemKind.CORRECTION_INCOMPLETE if conflict.is_correction else ProblemKind.PATIENTS_MIXED
        text = f"Nothing is analysed or sent of this study: {conflict.text}"
        with self._database.session() as session:
            if not _move(session, study_instance_uid, revision, StudyState.COMPLETE, StudyState.IGNORED, reason):
                return False
            _keep_decision(session, study_instance_uid, revision, RoutingDecision(), now)
            _warn(session, study_instance_uid, revision, [reason], now)
            here = schema.StudyRow.study_instance_uid == study_instance_uid
            changed(session, update(schema.StudyRow).where(here).values(report_marked_at=None))
            waiting = and_(job.study_instance_uid == study_instance_uid, job.kind != JobKind.WITHDRAWAL)
            cancel(session, waiting, revision, "superseded: the study states different patients", now)
            _close_routing_problems(session, study_instance_uid)
            _close_identity_problems(session, study_instance_uid, besides=kind)
            open_problem(session, kind, study_instance_uid, text, study_instance_uid)
            return True

    def callers(self, study_instance_uid: str) -> set[str]:
        """Return the calling AE titles of the associations that fed the study, in any revision."""
        feed, association = schema.FeedRow, schema.AssociationRow
        statement = (
            select(association.calling_ae_title)
            .join(feed, feed.association_id == association.id)
            .where(feed.study_instance_uid == study_instance_uid)
            .distinct()
        )
        with self._database.reading() as session:
            return set(session.scalars(statement))

    def reroute(self, study_instance_uid: str, reason: str = "to be routed again, as asked by the operator") -> bool:
        """Move the study from ROUTED or IGNORED back to COMPLETE, to be routed again.

        This is needed after an application was added or repaired, or after an earlier study of the patient came. No
        second job is made for a result that stands (see `route`). Return False in other states.
        """
        with self._database.session() as session:
            revision = session.scalar(
                update(schema.StudyRow)
                .where(
                    schema.StudyRow.study_instance_uid == study_instance_uid,
                    schema.StudyRow.state.in_((StudyState.ROUTED, StudyState.IGNORED)),
                )
                .values(state=StudyState.COMPLETE, reason=reason)
                .returning(schema.StudyRow.revision),
                execution_options={"synchronize_session": False},
            )
            if revision is None:
                return False
            add_event(session, Event(datetime.now(UTC), study_instance_uid, revision, Stage.COMPLETE, reason))
            return True

    def analysed(self, study_instance_uid: str) -> set[str]:
        """Return the applications that had an analysis of this study, in any revision."""
        job = schema.JobRow
        mine = and_(job.study_instance_uid == study_instance_uid, job.kind == JobKind.ANALYSIS)
        with self._database.reading() as session:
            return set(session.scalars(select(job.application).where(mine).distinct()))

    def routing(self, study_instance_uid: str, revision: int | None = None) -> RoutingDecision | None:
        """Return the routing decision on one revision, by default the current one; None before its routing."""
        with self._database.reading() as session:
            if revision is None:
                study = session.get(schema.StudyRow, study_instance_uid)
                if study is None:
                    return None
                revision = study.revision
            row = session.get(schema.RoutingRow, (study_instance_uid, revision))
            return None if row is None else RoutingDecision.from_json(row.decisions)

    # -- reading -------------------------------------------------------------------------------------------------------

    def list(self, state: StudyState | None = None, limit: int = 100) -> list[Study]:
        """Return up to `limit` studies, the last received first."""
        statement = select(schema.StudyRow).order_by(schema.StudyRow.last_received_at.desc()).limit(limit)
        if state is not None:
            statement = statement.where(schema.StudyRow.state == state)
        with self._database.reading() as session:
            return [study_record(row) for row in session.scalars(statement)]

    def get(self, study_instance_uid: str) -> Study | None:
        with self._database.reading() as session:
            row = session.get(schema.StudyRow, study_instance_uid)
            return None if row is None else study_record(row)

    def events(self, study_instance_uid: str) -> Sequence[Event]:
        """Return the timeline, oldest event first."""
        with self._database.reading() as session:
            return events(session, study_instance_uid)


def _held(session: Session, study_instance_uid: str, revision: int) -> bool:
    """Lock the study until the end of the transaction. Return True if it is RECEIVING at this revision."""
    study = schema.StudyRow
    statement = select(study.study_instance_uid).where(
        study.study_instance_uid == study_instance_uid,
        study.revision == revision,
        study.state == StudyState.RECEIVING,
    )
    return session.scalar(statement.with_for_update()) is not None


def _move(
    session: Session,
    study_instance_uid: str,
    revision: int,
    start: StudyState,
    end: StudyState,
    reason: str,
    condition: ColumnElement[bool] | None = None,
) -> bool:
    statement = (
        update(schema.StudyRow)
        .where(
            schema.StudyRow.study_instance_uid == study_instance_uid,
            schema.StudyRow.revision == revision,
            schema.StudyRow.state == start,
            true() if condition is None else condition,
        )
        .values(state=end, reason=reason)
    )
    return changed(session, statement) == 1


def _close_identity_problems(session: Session, study_instance_uid: str, besides: ProblemKind | None = None) -> None:
    for kind in (ProblemKind.PATIENTS_MIXED, ProblemKind.CORRECTION_INCOMPLETE):
        if kind is not besides:
            close_problem(session, kind, study_instance_uid)


def _close_routing_problems(session: Session, study_instance_uid: str) -> None:
    for kind in (ProblemKind.MACHINE_TROUBLE, ProblemKind.ROUTING_FAILED):
        close_problem(session, kind, study_instance_uid)


def _warn(session: Session, study_instance_uid: str, revision: int, warnings: Sequence[str], now: datetime) -> None:
    for text in warnings:
        add_event(session, Event(now, study_instance_uid, revision, Stage.WARNING, text))


def _keep_decision(
    session: Session, study_instance_uid: str, revision: int, decision: RoutingDecision, now: datetime
) -> None:
    """Keep the decision. It replaces that of an earlier routing of the same revision."""
    routing = schema.RoutingRow
    changed(
        session,
        delete(routing).where(routing.study_instance_uid == study_instance_uid, routing.revision == revision),
    )
    session.execute(
        insert(routing).values(
            study_instance_uid=study_instance_uid, revision=revision, decisions=decision.to_json(), at=now
        )
    )
