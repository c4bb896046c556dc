"""Lists of studies, jobs, commitments and confirmations on a terminal.

Studies and jobs are blocks, not rows: a UID and a reason are longer than any column, and a UID must stay whole to be
copied.
"""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from dicom_node.read.census import Census
from dicom_node.read.jobs import ListedJob, purpose
from dicom_node.read.problems import ADVICE
from dicom_node.read.summary import resent_note
from dicom_node.runtime.logs import printable
from storage.records.commitments import Commitment
from storage.records.deliveries import Confirmation
from storage.records.problems import Problem
from storage.records.studies import Event, Stage, Study

_COLORS = {
    **dict.fromkeys(("ROUTED", "SUCCEEDED", "SENT", "COMMITTED", "REPORTED"), "green"),
    **dict.fromkeys(("RECEIVING", "COMPLETE", "RUNNING", "SENDING", "QUEUED", "REQUESTED"), "cyan"),
    **dict.fromkeys(("RETRYING", "IGNORED", "CANCELLED", "REPLACED"), "yellow"),
    "FAILED": "bold red",
}


def state_text(state: str) -> Text:
    return Text(state, style=_COLORS.get(state, ""))


def uid_text(uid: str, style: str = "") -> Text:
    """Return a UID as text that a narrow terminal folds and never cuts."""
    return Text(uid, style=style, overflow="fold")


def indented(line: RenderableType) -> RenderableType:
    return Padding(line, (0, 0, 0, 2), expand=False)


def reason_lines(text: str) -> list[RenderableType]:
    """Return the line of a reason; nothing for an empty reason."""
    return [indented(Text(text, style="dim", overflow="fold"))] if text else []


def studies_list(studies: Sequence[Study]) -> RenderableType:
    if not studies:
        return Text("No study.")
    return Group(*(_study_block(study) for study in studies))


def _study_block(study: Study) -> RenderableType:
    known = Text.assemble(
        state_text(study.state),
        f"  revision {study.revision}  {study.instances} instances  {study.last_received_at:%Y-%m-%d %H:%M:%S} UTC",
    )
    return Group(uid_text(study.study_instance_uid, "bold"), indented(known), *reason_lines(study.reason))


def jobs_list(rows: Sequence[ListedJob]) -> RenderableType:
    if not rows:
        return Text("No job.")
    return Group(*(_job_block(row) for row in rows))


def _job_block(row: ListedJob) -> RenderableType:
    job = row.job
    lines: list[RenderableType] = [
        Text.assemble(
            (f"job {job.id}  {job.title}  ", "bold"),
            state_text(job.state),
            f"  revision {job.revision}  attempts {job.attempts}",
            f"  priority {job.priority}" if job.priority else "",
        ),
        indented(uid_text(job.study_instance_uid)),
        *reason_lines(purpose(job)),
        *reason_lines(job.reason),
    ]
    for delivery in row.deliveries:
        head = f"delivery {delivery.id}  {delivery.kind} → {delivery.destination}  "
        attempts = f"  attempts {delivery.attempts}{resent_note(delivery)}"
        lines.append(indented(Text.assemble(head, state_text(delivery.state), attempts)))
        lines += [indented(line) for line in (*reason_lines(delivery.reason), *reason_lines(delivery.warning))]
    return Group(*lines)


def problems_list(problems: Sequence[Problem], acknowledged: int) -> RenderableType:
    """Return a block for each problem, and the number of those that are left out because they are acknowledged."""
    left_out = f"{acknowledged} acknowledged; `dicom-node problems --all` shows them" if acknowledged else ""
    blocks = [_problem_block(problem) for problem in problems]
    if not blocks:
        return Text(f"No problem. {left_out}".rstrip())
    return Group(*blocks, *([Text(left_out, style="dim")] if left_out else []))


def _problem_block(problem: Problem) -> RenderableType:
    times = "" if problem.times == 1 else f"  {problem.times} times, last {problem.last_at:%Y-%m-%d %H:%M:%S}"
    seen = "" if problem.acknowledged_at is None else f"  acknowledged {problem.acknowledged_at:%Y-%m-%d %H:%M:%S} UTC"
    head = Text.assemble(
        (problem.name, "bold"), f"  since {problem.since:%Y-%m-%d %H:%M:%S} UTC{times}", (seen, "green")
    )
    lines = [Text(printable(problem.text), overflow="fold")]
    if problem.study_instance_uid and problem.study_instance_uid != problem.key:
        lines.append(uid_text(problem.study_instance_uid))
    lines += [
        Text(text, style="dim", overflow="fold") for text in (ADVICE[problem.kind], printable(problem.note)) if text
    ]
    return Group(head, *map(indented, lines))


def commitments_table(commitments: Sequence[Commitment]) -> Table:
    table = Table(
        "Request", "Peer", "Transaction UID", "Instances", "Requested (UTC)", "State", "Attempts", "Why",
        header_style="bold",
    )  # fmt: skip
    for c in commitments:
        table.add_row(
            str(c.id),
            f"{c.peer_ae_title} at {c.peer_host}",
            c.transaction_uid,
            str(len(c.items)),
            f"{c.requested_at:%Y-%m-%d %H:%M:%S}",
            state_text(c.state),
            str(c.attempts),
            c.reason,
        )
    return table


def confirmations_table(confirmations: Sequence[Confirmation]) -> Table:
    table = Table(
        "Question", "Destination", "Transaction UID", "Objects", "Requested (UTC)", "State", "Report",
        header_style="bold",
    )  # fmt: skip
    for c in confirmations:
        table.add_row(
            str(c.id),
            c.destination,
            c.transaction_uid,
            str(len(c.items)),
            f"{c.requested_at:%Y-%m-%d %H:%M:%S}",
            state_text(c.state),
            f"{len(c.report.committed)} committed, {len(c.report.failed)} failed" if c.report else "",
        )
    return table


def timeline_table(timeline: Sequence[Event]) -> Table:
    """Return the steps of a study, each with the time since the step before."""
    what = Column("What", overflow="fold")
    table = Table("Time (UTC)", "+ s", "Rev", "Step", what, header_style="bold", title="Timeline")
    previous: datetime | None = None
    for event in timeline:
        since = "" if previous is None else f"{(event.at - previous).total_seconds():.1f}"
        style = "yellow" if event.stage is Stage.WARNING else ""
        step, text = Text(event.stage), Text(event.text)
        table.add_row(f"{event.at:%H:%M:%S}", since, str(event.revision), step, text, style=style)
        previous = event.at
    return table


def census_lines(census: Census) -> RenderableType:
    """Return the lines that show the census of `fsck`."""
    lines: list[RenderableType] = [
        Text(
            f"{census.instances} instances, {census.waiting} not filed yet, {census.quarantined} in quarantine; "
            f"{len(census.problems) or 'no'} problem{'' if len(census.problems) == 1 else 's'}",
            style="bold red" if census.problems else "green",
        )
    ]
    if census.problems:
        table = Table("Problem", "Where", header_style="bold")
        for problem in census.problems:
            table.add_row(problem.fault, Text(problem.path, overflow="fold"))
        lines.append(table)
        lines.append(
            Text(
                "`dicom-node fsck --repair` gives rows to what has none, also to bytes that came again; the rest must "
                "be sent again by its sender."
            )
        )
    return Group(*lines)
