"""A study on a terminal: the answer first, then the timeline and the results."""

from dataclasses import replace

from rich.console import Group, RenderableType
from rich.text import Text

from dicom_node.demo.tables import indented, reason_lines, state_text, timeline_table, uid_text
from dicom_node.read.deliveries import ListedDelivery
from dicom_node.read.study import StudyDetail
from dicom_node.read.summary import Summary, resent_note
from storage.records.jobs import JobKind, of_side


def summary_lines(detail: StudyDetail, summary: Summary) -> RenderableType:
    """Return the answer in at most five lines, and a line for each thing passed over."""
    first, *others = summary.answer
    head = Text.assemble(state_text(detail.study.state), f"  {first}", overflow="fold")
    return Group(
        head,
        *(Text(line, overflow="fold") for line in others),
        *(Text(line, style="dim", overflow="fold") for line in summary.passed_over),
    )


def study_page(detail: StudyDetail, summary: Summary, everything: bool = False) -> RenderableType:
    """Return the page of a study. UIDs, and each single series, are shown only with `everything`."""
    names = summary.names
    timeline = detail.timeline
    if not everything:
        timeline = tuple(replace(event, text=names.put_into(event.text)) for event in timeline)
    lines: list[RenderableType] = [summary_lines(detail, summary), timeline_table(timeline)]
    if everything:
        study = detail.study
        head = Text.assemble(state_text(study.state), f"  revision {study.revision}")
        lines += [uid_text(study.study_instance_uid, "bold"), indented(head), *reason_lines(study.reason)]
        lines.append(Text("Series", style="bold"))
        for s in detail.series:
            name = names.of(s.series_instance_uid)
            lines.append(indented(Text(f"{s.modality}  {s.instances} instances  {name}")))
            lines.append(indented(indented(uid_text(s.series_instance_uid))))
    lines.append(Text("Results", style="bold"))
    without_result = {job.id for job in detail.jobs if job.kind is JobKind.NO_RESULT}
    sides = {job.id: job.side for job in detail.jobs}
    for delivery in detail.deliveries:
        lines += _result(delivery, sides.get(delivery.job_id, ""), delivery.job_id in without_result, everything)
    if not detail.deliveries:
        lines.append(indented(Text("none")))
    return Group(*lines)


def _result(delivery: ListedDelivery, side: str, is_no_result: bool, everything: bool) -> list[RenderableType]:
    kind = of_side(delivery.kind, side)
    head = f"{'no AI result, ' if is_no_result else ''}{kind} → {delivery.destination}  "
    lines = [indented(Text.assemble(head, state_text(delivery.state), resent_note(delivery)))]
    if everything:
        lines.append(indented(indented(uid_text(delivery.sop_instance_uid))))
    return [*lines, *(indented(line) for line in (*reason_lines(delivery.reason), *reason_lines(delivery.warning)))]
