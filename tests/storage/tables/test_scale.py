"""Frequent questions of the roles to the database take after years as long as on the first day."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from storage.records.patients import NOBODY
from storage.records.problems import ProblemKind
from storage.tables.commitments import Commitments, note_last_filed
from storage.tables.confirmations import Confirmations
from storage.tables.database import schema
from storage.tables.database.clock import Clocks
from storage.tables.patients import Patients
from storage.tables.problems import Problems
from storage.tables.procedure_steps import ProcedureSteps
from storage.tables.studies import Studies
from tests.storage.node import NOW, Node, received
from tests.storage.tables.history import BEFORE, fill

STUDIES = 10_000  # in each of a dozen tables
NUMBER = 7770
STUDY, IMAGE = f"1.2.{NUMBER}", f"1.3.{NUMBER}"

STEPS_AT_ONCE = 100
STEPS = 20_000  # of SQLite's virtual machine, in one call; a pass over one table takes twice as many

Call = Callable[[], object]


def calls(node: Node, folder: Path) -> dict[str, Call]:
    database, studies, jobs, deliveries = node.database, node.studies, node.jobs, node.deliveries
    patients = Patients(database, folder / "patients.key")
    problems = Problems(database)
    commitments, confirmations = Commitments(database), Confirmations(database)
    job = jobs.get(NUMBER)
    assert job is not None

    def note() -> None:
        with database.session() as session:
            note_last_filed(session, {IMAGE: NOW})

    def forget() -> None:
        with database.session() as session:
            kept = schema.SharedHeaderRow(study_instance_uid="9.3", series_instance_uid="9.3", list_version=1, kept=b"")
            subject = schema.SubjectRow(digest="9.3", hashes={})
            for row in (kept, subject):
                session.add(row)
                session.flush()
                session.delete(row)

    return {
        "a patient and a header are forgotten": forget,
        "an instance of a new study is indexed": lambda: node.store(received(study="9.1")),
        "one of an old study is indexed": lambda: node.store(received(study=STUDY)),
        "content of an instance is filed": note,
        "a receiver starts": lambda: node.instances.abort_open_associations("receive-0", NOW),
        "the index starts": node.instances.is_empty,
        "evidence of studies that arrive": studies.evidence,
        "evidence of one study": lambda: studies.evidence(STUDY),
        "contents of a study": lambda: studies.contents(STUDY),
        "results at the source": lambda: studies.own_at(STUDY, "PACS"),
        "complete studies": studies.completed,
        "routing of a study": lambda: studies.routing(STUDY),
        "senders of a study": lambda: studies.callers(STUDY),
        "applications of a study": lambda: studies.analysed(STUDY),
        "a study is completed and routed": lambda: _route(studies, node),
        "a study is routed again": lambda: studies.reroute(STUDY),
        "instances of a study": lambda: node.instances.series(STUDY),
        "a sample of a study": lambda: node.instances.sample(STUDY, 3),
        "patients in a study": lambda: node.instances.identities(STUDY),
        "other studies of the patient": lambda: patients.others(STUDY),
        "studies that a routing concerns": lambda: patients.routed(STUDY),
        "a study of the patient is routed": lambda: patients.note_routed(STUDY, 1),
        "studies routed since": lambda: patients.routed_since(STUDY, patients.last_event()),
        "studies to be identified": lambda: patients.unidentified(STUDY, 100),
        "a study is identified": lambda: patients.identify(STUDY, lambda: NOBODY),
        "reports to be decided": node.no_results.pending,
        "jobs of a study": lambda: node.no_results.jobs(STUDY),
        "running jobs": jobs.heartbeats,
        "silent jobs": lambda: jobs.release_silent({NUMBER: BEFORE}, 3, NOW),
        "an idle worker": lambda: jobs.claim("worker", NOW + timedelta(days=1)),
        "a worker starts": lambda: jobs.release_worker("worker", "started", 3),
        "repetition of a job": lambda: node.results.repetition(job),
        "edition of a result": lambda: node.results.edition(job),
        "results of a study": lambda: node.results.objects(STUDY),
        "reports before": lambda: node.results.previous_sr(STUDY, "mass", 0, ["PACS"]),
        "reports of no result before": lambda: node.results.previous_no_result(STUDY, 0, ["PACS"]),
        "reports of no result at a PACS": lambda: node.results.held_no_result(STUDY, 0, "PACS"),
        "superseded results": lambda: node.results.superseded(STUDY, "mass", 0, "PACS"),
        "an idle dispatcher": lambda: deliveries.claim("PACS", "dispatch", NOW),
        "a dispatcher starts": lambda: deliveries.release_dispatcher("dispatch"),
        "claimed deliveries": deliveries.claims,
        "silent deliveries": lambda: deliveries.release_silent({NUMBER: BEFORE}, NOW),
        "a PACS is reached": lambda: deliveries.reached("PACS"),
        "objects of a job": lambda: deliveries.offered(NUMBER, "PACS"),
        "requests for commitment": lambda: commitments.due(NOW),
        "held requests": commitments.leases,
        "instances of a request": lambda: (commitments.indexed([IMAGE]), commitments.aside([IMAGE])),
        "objects to be confirmed": lambda: confirmations.begin("PACS", "9.9", NOW, NOW, NOW),
        "confirmations due": lambda: confirmations.due("PACS", NOW),
        "a confirmation ends": lambda: confirmations.settle(NUMBER, [], {}, "", NOW),
        "clock of a machine": lambda: Clocks(database, timedelta(days=9)).settle("host", "boot", 0.0, NOW),
        "a problem": lambda: problems.open(ProblemKind.QUARANTINED, "key", "text", STUDY),
        "procedure steps": lambda: ProcedureSteps(database, folder).of_study(STUDY),
    }


def _route(studies: Studies, node: Node) -> None:
    node.store(received(study="9.2"))
    node.route("mass", uid="9.2")


def test_no_call_takes_longer_after_years(node: Node, tmp_path: Path) -> None:
    """PostgreSQL plans by the sizes of tables, and the work of SQLite can be counted."""
    growing = fill(node.database, STUDIES)
    slow = {}
    for name, call in calls(node, tmp_path).items():
        with recorded() as done:
            call()
        assert done.statements
        whole = [scan for statement in done.statements for scan in scans(node, growing, *statement)]
        if whole or done.steps > STEPS:
            slow[name] = (done.steps, whole)
    assert slow == {}


class Work:
    """The statements that read or change rows, and the steps of SQLite's virtual machine."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, Any]] = []
        self.steps = 0

    def note(self, connection: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH", "INSERT")):
            self.statements.append((statement, parameters))

    def count(self) -> int:
        self.steps += STEPS_AT_ONCE
        return 0

    def watch(self, connection: Any, *_: object) -> None:
        if hasattr(connection, "set_progress_handler"):
            connection.set_progress_handler(self.count, STEPS_AT_ONCE)


@contextmanager
def recorded() -> Iterator[Work]:
    work = Work()
    event.listen(Engine, "before_cursor_execute", work.note)
    event.listen(Pool, "checkout", work.watch)
    try:
        yield work
    finally:
        event.remove(Engine, "before_cursor_execute", work.note)
        event.remove(Pool, "checkout", work.watch)


def scans(node: Node, growing: frozenset[str], statement: str, parameters: Any) -> list[str]:
    """The steps of PostgreSQL's plan of a statement that read all rows of a table, and not only the first one."""
    with node.database.reading() as session:
        connection = session.connection()
        if connection.dialect.name != "postgresql" or "WHERE" not in statement:
            return []
        if isinstance(parameters, list):
            (parameters, *_) = parameters
        steps = [str(row[0]) for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]
    read = [(step, found) for step in steps if (found := re.search(r"Seq Scan on (\w+)", step))]
    return [f"{step}: {statement}" for step, found in read if found[1] in growing]
