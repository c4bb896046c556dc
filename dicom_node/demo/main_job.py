"""The main job from end to end on this machine: a PACS, the node, and a scanner that pushes one study."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dicom_node.demo.overlay import write_overlay
from dicom_node.demo.own_node import AE_TITLE, SCANNER, choose_applications, own_command, running_node, write_config
from dicom_node.demo.pacs.base import Pacs
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.demo.report_tree import report_tree
from dicom_node.demo.simulator.limb import imaged_limb
from dicom_node.demo.simulator.phantom_study import write_phantom_study
from dicom_node.demo.simulator.scanner import PushOptions, push
from dicom_node.demo.simulator.study_files import load_study
from dicom_node.demo.study_page import summary_lines
from dicom_node.demo.tables import timeline_table
from dicom_node.dimse.scu import Target
from dicom_node.read.explanation import Explanation
from dicom_node.read.stores import Stores, open_stores
from dicom_node.read.study import StudyDetail, read_study
from dicom_node.read.summary import summarise
from dicom_node.settings.loading import load_settings
from dicom_node.settings.model import Settings
from inference.series.recogniser import read_headers
from storage.blobs import file_blobs
from storage.errors import NodeError, Permanent
from storage.records.deliveries import DeliveryState
from storage.records.jobs import JobKind, JobState
from storage.records.studies import StudyState

RESULT_SECONDS = 1800.0
CONFIRMATION_SECONDS = 5.0
PHANTOM_SEED = 1
PHANTOM = "a limb phantom with a mass (T1w, T2w-FS, DWI, ADC)"


@dataclass(frozen=True)
class Pushed:
    """The files that the scanner sends, by series, all of one study."""

    study_instance_uid: str
    series: tuple[tuple[Path, ...], ...]

    @property
    def paths(self) -> list[Path]:
        return [path for series in self.series for path in series]


def run_demo(
    parent: Path, study: Path | None, bundle: Path | None, console: Console, settings: Settings | None = None
) -> bool:
    """Run the demo in a new folder below `parent`. Return True if a report reached the PACS.

    `study` is a folder of the user's own DICOM; without it a limb phantom is pushed. `bundle` is a folder with the
    user's own model; without it the applications of `settings` run, or `soft_tissue_mass`. [work] and [dispatch] of
    `settings` hold as well. The study and the model of the user are checked before anything starts. Raises NodeError,
    naming the step that fails.
    """
    applications = choose_applications(bundle, settings)
    own = None if study is None else _own_study(study)
    folder = (parent / f"{datetime.now():%Y%m%d-%H%M%S}").resolve()
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise Permanent(f"--folder {parent}: {folder} cannot be made ({error.strerror}); name another one") from None
    port = free_port()
    node = Target(AE_TITLE, "127.0.0.1", port)
    console.print("[bold]1[/] The PACS")
    with start_pacs(folder / "pacs", node=node, say=lambda line: console.print(f"  {line}")) as pacs:
        console.print(f"  {pacs.description}", highlight=False)
        config = write_config(folder, port, pacs, applications, settings)
        console.print(f"[bold]2[/] The node: {AE_TITLE} on port {port}", highlight=False)
        with running_node(config, folder / "node.log", node):
            pushed = own or _phantom(folder)
            told = f"{study} ({len(pushed.series)} series)" if own else PHANTOM
            console.print(f"[bold]3[/] The study: {told}", highlight=False)
            _push(pushed, node, console)
            stores = open_stores(load_settings(config).stores)
            detail = _wait(stores, pushed.study_instance_uid, console)
            explanation = Explanation(detail, stores.studies.routing(pushed.study_instance_uid))
            return _show(explanation, pacs, pushed, folder, console)


def _phantom(folder: Path) -> Pushed:
    written = write_phantom_study(folder / "study", imaged_limb(PHANTOM_SEED), PHANTOM_SEED)
    return Pushed(written.study_instance_uid, tuple(s.paths for s in written.series.values()))


def _own_study(study: Path) -> Pushed:
    """Find the study in the user's folder. Raises Permanent if there is none, or more than one."""
    if not study.exists():
        raise Permanent(f"--study {study}: there is no such folder")
    files = load_study(study)
    studies: dict[str, list[tuple[Path, ...]]] = {}
    for paths in files.series.values():
        (header,) = read_headers(file_blobs(paths[:1]))
        studies.setdefault(str(header.StudyInstanceUID), []).append(paths)
    if len(studies) > 1:
        raise Permanent(f"{study} holds {len(studies)} studies; the demo pushes one, name its folder")
    ((uid, series),) = studies.items()
    return Pushed(uid, tuple(series))


def _push(pushed: Pushed, node: Target, console: Console) -> None:
    with _progress(console) as progress:
        task = progress.add_task("The scanner pushes", total=len(pushed.paths))
        report = push(pushed.series, node, SCANNER, PushOptions(shuffle=1), lambda result: progress.advance(task))
    if report.failures:
        raise NodeError(
            f"{len(report.failures)} of {report.sent} images were not accepted, the first: {report.failures[0][1]}"
        )


def _wait(stores: Stores, study_instance_uid: str, console: Console) -> StudyDetail:
    """Wait until the study has ended and none of its deliveries is still on its way.

    Then wait a moment longer for the PACS to confirm the objects, because not every PACS does so.
    """
    deadline = time.monotonic() + RESULT_SECONDS
    ended = 0.0
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("The node works", total=None)
        while time.monotonic() < deadline:
            study = stores.studies.get(study_instance_uid)
            if study is not None:
                detail = read_study(stores, study)
                progress.update(task, description=f"  {_stage(detail)}")
                if _ended(detail):
                    ended = ended or time.monotonic()
                    if _confirmed(detail) or time.monotonic() - ended > CONFIRMATION_SECONDS:
                        return detail
            time.sleep(0.3)
    raise NodeError(f"The node did not finish within {RESULT_SECONDS:g} s; ask it with `dicom-node study`")


def _stage(detail: StudyDetail) -> str:
    if detail.deliveries:
        return "Delivering to the PACS"
    if detail.jobs:
        job = detail.jobs[-1]
        return f"{job.title}: {job.state.lower()}"
    return f"The study is {detail.study.state.lower()}"


def _ended(detail: StudyDetail) -> bool:
    ended = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    done = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.FAILED, DeliveryState.REPLACED)
    return (
        detail.study.state in (StudyState.ROUTED, StudyState.IGNORED)
        and all(job.state in ended for job in detail.jobs)
        and all(delivery.state in done for delivery in detail.deliveries)
    )


def _confirmed(detail: StudyDetail) -> bool:
    return all(delivery.state is not DeliveryState.SENT for delivery in detail.deliveries)


def _show(explanation: Explanation, pacs: Pacs, pushed: Pushed, folder: Path, console: Console) -> bool:
    """Print the answer, the timeline and the objects in the PACS. Return True if an analysis report is among them."""
    detail = explanation.detail
    console.print()
    console.print(summary_lines(detail, summarise(explanation)))
    console.print(timeline_table(detail.timeline))
    ours = {o.sop_instance_uid: o for o in detail.objects}
    held = [i for i in pacs.instances(pushed.study_instance_uid) if i.sop_instance_uid in ours]
    objects = {i.modality: pacs.dataset(i.sop_instance_uid) for i in held}
    if "SR" in objects:
        console.print("\n[bold]The report, as the PACS holds it[/]")
        console.print(report_tree(objects["SR"]))
    console.print("\n[bold]Where everything is[/]")
    for instance in held:
        console.print(f"  {instance.modality:4} in the PACS: {instance.sop_instance_uid}", highlight=False)
        console.print(f"       file: {ours[instance.sop_instance_uid].blob}", highlight=False, soft_wrap=True)
    if "SEG" in objects:
        files = _sources(objects["SEG"], pushed.paths)
        picture = write_overlay(folder / "overlay.png", objects["SEG"], files)
        console.print(f"  Picture: {picture}", highlight=False, soft_wrap=True)
    console.print(f"  Log:     {folder / 'node.log'}", highlight=False, soft_wrap=True)
    arguments = f"{pushed.study_instance_uid} --config {shlex.quote(str(folder / 'node.toml'))}"
    console.print(f"  Ask it:  {own_command()} study {arguments}", highlight=False, soft_wrap=True)
    analysed = {job.id for job in detail.jobs if job.kind is JobKind.ANALYSIS}
    result = any(ours[i.sop_instance_uid].job_id in analysed for i in held if i.modality == "SR")
    if not result and detail.study.state is StudyState.IGNORED:
        names = ", ".join(a.label for a in load_settings(folder / "node.toml").applications)
        console.print(f"\n[bold yellow]No result:[/] none of this study's series is one that {escape(names)} takes.")
        console.print(f"  Why:     {own_command()} explain {arguments}", highlight=False, soft_wrap=True)
        console.print(
            "  Way out: run a model made for such images on it, with --bundle <folder of the model> "
            "(make demo STUDY=<folder> BUNDLE=<folder of the model>)",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
    elif not result:
        console.print(f"\n[bold yellow]No result:[/] {escape(_why(detail))}", highlight=False)
    return result


def _sources(seg: Dataset, paths: Sequence[Path]) -> list[Path]:
    """Return the files of the series that the segmentation references."""
    series = {str(item.SeriesInstanceUID) for item in seg.ReferencedSeriesSequence}
    tags = ["SeriesInstanceUID"]
    return [
        p for p in paths if str(dcmread(p, specific_tags=tags, stop_before_pixels=True).SeriesInstanceUID) in series
    ]


def _why(detail: StudyDetail) -> str:
    reasons = [job.reason for job in detail.jobs if job.reason]
    reasons += [delivery.reason for delivery in detail.deliveries if delivery.reason]
    return "; ".join(reasons) or detail.study.reason


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
