"""What the operator sees of studies and jobs: one plain structure each, printed as JSON or drawn as tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text
from rich.tree import Tree

from dicom_node.read.census import Census
from inference.series.recogniser import SeriesDescription
from storage.log.instances import InstanceStore
from storage.records.commitments import Commitment, CommitmentState
from storage.records.completion import Waiting
from storage.records.deliveries import Confirmation, ConfirmationReport, Delivery, DeliveryState
from storage.records.jobs import Job, JobDetail, JobKind, JobState
from storage.records.procedure_steps import ProcedureStep
from storage.records.routing import RoutingDecision
from storage.records.studies import Study
from storage.tables.deliveries import Deliveries
from storage.tables.jobs import Jobs
from storage.tables.results import Results
from storage.tables.studies import Studies

Plain = dict[str, Any]

_COLORS = {
    **dict.fromkeys(("ROUTED", "SUCCEEDED", "SENT", "COMMITTED", "REPORTED"), "green"),
    **dict.fromkeys(("RECEIVING", "COMPLETE", "RUNNING", "SENDING", "QUEUED", "REQUESTED"), "cyan"),
    **dict.fromkeys(("RETRYING", "IGNORED", "CANCELLED", "REPLACED"), "yellow"),
    "FAILED": "bold red",
}


def plain(value: Any) -> Any:
    """Records to JSON values: times in ISO 8601, paths as text."""
    if isinstance(value, JobDetail | ConfirmationReport):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    return value


def study_detail(
    study: Study,
    studies: Studies,
    instances: InstanceStore,
    jobs: Jobs,
    results: Results,
    deliveries: Deliveries,
    procedure_steps: Sequence[ProcedureStep] = (),
    destinations: Collection[str] | None = None,
) -> Plain:
    """Every instance, series, job, object and delivery of a study, the procedure steps it is the result of, and its
    timeline.

    Objects that stand for others are left out where no destination needed them. `destinations` are those that are
    configured: a delivery to another one says that nobody serves it.
    """
    uid = study.study_instance_uid
    series = instances.series(uid)
    listed = jobs.list(study=uid)  # before its deliveries: those of a job that has succeeded are there then
    delivered = deliveries.list(study=uid)
    in_use = {delivery.object.id for delivery in delivered}
    return {
        **plain(study),
        "instances": [plain(i) for s in series for i in s.instances],
        "series": [
            {"series_instance_uid": s.series_instance_uid, "modality": s.modality, "instances": len(s.instances)}
            for s in series
        ],
        "jobs": [plain(j) for j in listed],
        "objects": [plain(o) for o in results.objects(uid) if not o.stands_for or o.id in in_use],
        "deliveries": [delivery_plain(d, destinations) for d in delivered],
        "procedure_steps": [plain(step) for step in procedure_steps],
        "timeline": [plain(e) for e in studies.events(uid)],
    }


def delivery_plain(delivery: Delivery, destinations: Collection[str] | None = None) -> Plain:
    result: Plain = plain(delivery)
    target = result.pop("object")
    if destinations is not None and is_stranded(delivery, destinations):
        stranded = f"no destination {delivery.destination!r} is configured any more; add it again to have this sent"
        result["reason"] = "; ".join(filter(None, [stranded, delivery.reason]))
    return {
        **result,
        "job_id": target["job_id"],
        "kind": target["kind"],
        "study_instance_uid": target["study_instance_uid"],
        "sop_instance_uid": target["sop_instance_uid"],
    }


def is_stranded(delivery: Delivery, destinations: Collection[str]) -> bool:
    """Whether it waits for a destination that is not configured."""
    waits = delivery.state in (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.RETRYING)
    return waits and delivery.destination not in destinations


def why_not_withdrawn(job: Job) -> str:
    """Of a job that `Jobs.withdraw` left as it is."""
    if job.kind is JobKind.WITHDRAWAL:
        return f"The job {job.id} is a withdrawal itself, which cannot be withdrawn"
    if job.state is not JobState.SUCCEEDED:
        return f"The job {job.id} is {job.state}; only results of a job that SUCCEEDED can be withdrawn"
    return f"The results of job {job.id} were withdrawn before"


def purpose(job: Plain) -> str:
    """What a job that is no analysis is for; empty for an analysis."""
    detail = job["detail"]
    match job["kind"]:
        case JobKind.NO_RESULT:
            return f"no AI result ({detail['why']}): {detail['explanation']}"
        case JobKind.WITHDRAWAL:
            return f"withdraws the results of job {detail['job']}" + (
                f": {detail['reason']}" if detail["reason"] else ""
            )
        case _:
            return ""


def jobs_with_deliveries(
    jobs: Sequence[Job], deliveries: Sequence[Delivery], destinations: Collection[str]
) -> list[Plain]:
    by_job: dict[int, list[Plain]] = {}
    for delivery in deliveries:
        by_job.setdefault(delivery.object.job_id, []).append(delivery_plain(delivery, destinations))
    return [{**plain(job), "deliveries": by_job.get(job.id, [])} for job in jobs]


def census_view(census: Census) -> RenderableType:
    """What `fsck` found."""
    lines: list[RenderableType] = [
        Text(
            f"{census.instances} instances, {census.waiting} in journals, {census.quarantined} in quarantine; "
            f"{len(census.problems) or 'no'} problem{'' if len(census.problems) == 1 else 's'}",
            style="bold red" if census.problems else "green",
        )
    ]
    if census.problems:
        table = Table("Problem", "File", header_style="bold")
        for problem in census.problems:
            table.add_row(problem.fault, Text(problem.path, overflow="fold"))
        lines.append(table)
        lines.append(
            Text(
                "`dicom-node fsck --repair` mends what journals still hold; the rest must be sent again by its sender."
            )
        )
    return Group(*lines)


def state_text(state: str) -> Text:
    return Text(state, style=_COLORS.get(state, ""))


def studies_view(studies: Sequence[Study]) -> RenderableType:
    """Blocks, not a table: a UID and a reason are longer than any column, and a UID must stay whole to be copied."""
    if not studies:
        return Text("No study.")
    return Group(*(_study_block(study) for study in studies))


def _study_block(study: Study) -> RenderableType:
    facts = Text.assemble(
        state_text(study.state),
        f"  revision {study.revision}  {study.instances} instances  {study.last_received_at:%Y-%m-%d %H:%M:%S} UTC",
    )
    return Group(_whole(study.study_instance_uid, "bold"), _below(facts), *_reason(study.reason))


def jobs_view(jobs: Sequence[Plain]) -> RenderableType:
    if not jobs:
        return Text("No job.")
    return Group(*(_job_block(job) for job in jobs))


def _job_block(job: Plain) -> RenderableType:
    lines: list[RenderableType] = [
        Text.assemble(
            (f"job {job['id']}  {job['application']}  ", "bold"),
            state_text(job["state"]),
            f"  revision {job['revision']}  attempts {job['attempts']}",
            f"  priority {job['priority']}" if job["priority"] else "",
        ),
        _below(_whole(job["study_instance_uid"])),
        *_reason(purpose(job)),
        *_reason(job["reason"]),
    ]
    for delivery in job["deliveries"]:
        lines.append(
            _below(
                Text.assemble(
                    f"delivery {delivery['id']}  {delivery['kind']} → {delivery['destination']}  ",
                    state_text(delivery["state"]),
                    f"  attempts {delivery['attempts']}{_resent(delivery)}",
                )
            )
        )
        lines += [_below(line) for line in _reason(delivery["reason"])]
    return Group(*lines)


def _resent(delivery: Plain) -> str:
    return "  sent again: it was accepted and not committed" if delivery["resends"] else ""


def _whole(uid: str, style: str = "") -> Text:
    """A UID that is folded, never cut, where the terminal is narrower than it."""
    return Text(uid, style=style, overflow="fold")


def _below(line: RenderableType) -> RenderableType:
    return Padding(line, (0, 0, 0, 2), expand=False)


def _reason(text: str) -> list[RenderableType]:
    return [_below(Text(text, style="dim", overflow="fold"))] if text else []


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


def timeline_table(detail: Plain) -> Table:
    """Each step with the time since the one before."""
    what = Column("What", overflow="fold")
    table = Table("Time (UTC)", "+ s", "Rev", "Step", what, header_style="bold", title="Timeline")
    previous: datetime | None = None
    for event in detail["timeline"]:
        at = datetime.fromisoformat(event["at"])
        since = "" if previous is None else f"{(at - previous).total_seconds():.1f}"
        style = "yellow" if event["stage"] == "warning" else ""
        table.add_row(f"{at:%H:%M:%S}", since, str(event["revision"]), event["stage"], event["text"], style=style)
        previous = at
    return table


def study_view(detail: Plain) -> RenderableType:
    lines: list[RenderableType] = [
        _whole(detail["study_instance_uid"], "bold"),
        _below(Text.assemble(state_text(detail["state"]), f"  revision {detail['revision']}")),
        *_reason(detail["reason"]),
        timeline_table(detail),
        Text("Series", style="bold"),
    ]
    for s in detail["series"]:
        lines.append(_below(Text(f"{s['modality']}  {s['instances']} instances")))
        lines.append(_below(_below(_whole(s["series_instance_uid"]))))
    lines.append(Text("Results", style="bold"))
    reports = {job["id"] for job in detail["jobs"] if job["kind"] == JobKind.NO_RESULT}
    for delivery in detail["deliveries"]:
        what = "no AI result, " if delivery["job_id"] in reports else ""
        head = f"{what}{delivery['kind']} → {delivery['destination']}  "
        lines.append(_below(Text.assemble(head, state_text(delivery["state"]), _resent(delivery))))
        lines.append(_below(_below(_whole(delivery["sop_instance_uid"]))))
        lines += [_below(line) for line in _reason(delivery["reason"])]
    if not detail["deliveries"]:
        lines.append(_below(Text("none")))
    return Group(*lines)


def explanation(detail: Plain, routing: RoutingDecision | None, awaited: Waiting | None) -> Plain:
    """What `explain --json` prints. `awaited` is what a study in RECEIVING waits for."""
    keys = ("study_instance_uid", "state", "revision", "reason", "priority")
    by_stage = {
        name: [e for e in detail["timeline"] if e["stage"] == stage]
        for name, stage in (("completion", "complete"), ("asked", "asked"), ("early", "early"))
    }
    jobs = [
        {**{k: j[k] for k in ("id", "application", "kind", "revision", "state", "priority")}, "purpose": purpose(j)}
        for j in detail["jobs"]
    ]
    told = [
        {k: d[k] for k in ("id", "job_id", "kind", "destination", "state", "reason", "resends")}
        for d in detail["deliveries"]
    ]
    not_delivered = [d for d in told if d["state"] in (DeliveryState.REPLACED, DeliveryState.FAILED)]
    not_confirmed = [
        d
        for d in told
        if (d["state"] == DeliveryState.SENT and d["reason"])
        or (d["resends"] and d["state"] not in (DeliveryState.COMMITTED, DeliveryState.FAILED))
    ]
    return {
        **{k: detail[k] for k in keys},
        "waiting": None if awaited is None else awaited.to_json(),
        **by_stage,
        "routing": None if routing is None else routing.to_json(),
        "jobs": jobs,
        "not_delivered": not_delivered,
        "not_confirmed": not_confirmed,
    }


def explain_view(explained: Plain) -> Tree:
    """Why the study is complete or waits, what each series is, and which series fed which input or why not."""
    routing = explained["routing"]
    tree = Tree(f"[bold]Study[/] {explained['study_instance_uid']}  revision {explained['revision']}")
    tree.add(Text.assemble(("State: ", "bold"), state_text(explained["state"]), f"  {explained['reason']}"))
    if explained["priority"] or any(j["priority"] for j in explained["jobs"]):
        jobs = "".join(f", job {j['id']} {j['priority']}" for j in explained["jobs"])
        tree.add(Text.assemble(("Priority: ", "bold"), f"study {explained['priority']}{jobs}"))
    if waiting := explained["waiting"]:
        until = datetime.fromisoformat(waiting["until"])
        node = tree.add(Text.assemble(("Waits: ", "bold"), waiting["reason"]))
        node.add(
            Text(f"until {until:%H:%M:%S} UTC at the latest, if nothing else comes; then by {waiting['evidence']}")
        )
        _add_counts(node, waiting["numbers"])
    for event in explained["asked"]:
        tree.add(Text.assemble(("Asked: ", "bold"), event["text"]))
    for event in explained["early"]:
        tree.add(Text.assemble(("Early: ", "bold"), event["text"]))
    for event in explained["completion"]:
        node = tree.add(Text.assemble(("Complete: ", "bold"), event["text"]))
        if event["data"]:
            waited = f"{event['data']['waited_seconds']:g} s"
            node.add(Text(f"evidence: {event['data']['evidence']}, after {waited}, revision {event['revision']}"))
            _add_counts(node, event["data"]["numbers"])
    if routing is None:
        tree.add("Not routed yet")
        return tree
    series = tree.add("[bold]Series[/]")
    for s in routing["series"]:
        facts = [s["modality"], s["kind"], s.get("body_part"), s["plane"], s["dimension"], f"{s['slices']} slices"]
        facts = [f for f in facts if f]
        node = series.add(Text(f"{s['series_instance_uid']}: {', '.join(facts)} (confidence {s['confidence']})"))
        for reason in s["reasons"]:
            node.add(Text(reason))
    applications = tree.add("[bold]Applications[/]")
    for a in routing["applications"]:
        verdict = "applies" if a["applies"] else "does not apply"
        node = applications.add(Text(f"{a['application']}: {verdict}. {a['reason']}"))
        _add_decisions(node, a)
        for point in a.get("earlier", ()):
            _add_decisions(node.add(Text(_time_point(point))), point)
    for j in explained["jobs"]:
        if j["purpose"]:
            tree.add(
                Text.assemble(
                    (f"Job {j['id']}, {j['application']}: ", "bold"), state_text(j["state"]), f"  {j['purpose']}"
                )
            )
    for d in explained["not_delivered"] + explained["not_confirmed"]:
        head = f"{d['kind']} of job {d['job_id']} → {d['destination']}: "
        tree.add(Text.assemble((head, "bold"), state_text(d["state"]), f"{_resent(d)}  {d['reason']}"))
    return tree


def recognised_view(found: Sequence[SeriesDescription]) -> Tree:
    """What each series is taken for, and why."""
    tree = Tree("[bold]Series[/]")
    for s in found:
        fat = {True: "fat suppressed", False: "not fat suppressed", None: ""}[s.fat_suppressed]
        b_values = "b = " + ", ".join(f"{b:g}" for b in s.b_values) if s.b_values else ""
        agent, phases = "with contrast agent" if s.contrast else "", f"{s.phases} phases" if s.phases > 1 else ""
        facts = [
            s.modality,
            str(s.kind),
            s.plane,
            s.dimension,
            f"{s.slices} slices",
            fat,
            agent,
            s.phase,
            phases,
            b_values,
        ]
        head = f"{s.series_instance_uid}: {', '.join(f for f in facts if f)} (confidence {s.confidence:.2f})"
        node = tree.add(Text(head))
        for reason in (*s.reasons, s.problem, s.differences):
            if reason:
                node.add(Text(reason))
    return tree


def is_dead(record: Job | Delivery | Commitment) -> bool:
    return record.state in (JobState.FAILED, DeliveryState.FAILED, CommitmentState.FAILED)


def _priority(detail: Plain) -> str:
    highest = max([detail["priority"], *(j["priority"] for j in detail["jobs"])])
    return f"  priority {highest}" if highest else ""


def _add_decisions(node: Tree, bound: Plain) -> None:
    """Of each input: what it takes, what feeds it, and why nothing else does."""
    wanted = bound.get("wanted", {})
    by_input: dict[str, list[Plain]] = {}
    for d in bound.get("decisions", ()):
        by_input.setdefault(d["input"], []).append(d)
    for name, decisions in by_input.items():
        decisions.sort(key=lambda d: not d["taken"])
        fed = f"series {decisions[0]['series_instance_uid']}" if decisions[0]["taken"] else "no series"
        takes = f" (takes {wanted[name]})" if name in wanted else ""
        below = node.add(Text(f"input {name}: {fed}{takes}"))
        for d in decisions:
            below.add(Text(f"{d['series_instance_uid']} {'taken' if d['taken'] else 'not taken'}: {d['reason']}"))


def _time_point(point: Plain) -> str:
    when = "" if point["days"] is None else f", {point['days']} days before"
    mark = f"taken as time point {point['time_point']}" if point["time_point"] else "not taken"
    return f"earlier study {point['study_instance_uid']}{when}: {mark}: {point['reason']}"


def _add_counts(node: Tree, numbers: Plain) -> None:
    """The numbers behind a decision on completeness."""
    feeding = ", ".join(f"{count} {end}" for end, count in numbers["associations"].items() if count)
    node.add(Text(f"associations: {feeding or 'none known'}"))
    if steps := numbers.get("procedure_steps"):
        node.add(Text("procedure steps: " + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in steps.items() if v)))
    if source := numbers.get("source"):
        own = f", {source['own_results']} of them results of this node" if source["own_results"] else ""
        node.add(Text(f"{source['name']}: {source['problem'] or str(source['count']) + ' instances' + own}"))
    for s in numbers["series"]:
        node.add(
            Text(f"series {s['series_instance_uid']}: {s['says'] or str(s['images']) + ' images'} ({s['evidence']})")
        )
