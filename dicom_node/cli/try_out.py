"""Commands to try the node out: the demo, a simulated scanner, sending, asking, recognising.

Each command imports its modules when it runs, so that the node's own commands stay light.
"""

from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.markup import escape

from dicom_node.cli.options import AsJson, Calling, Config, To, checked_ae_title, find_target, read_config
from dicom_node.cli.output import console, print_json, report_failures, write_json
from dicom_node.demo.simulator.scanner import Associations
from dicom_node.runtime import logs
from dicom_node.settings.loading import load_settings
from storage.errors import Permanent


class Phantoms(StrEnum):
    """The phantoms that the simulated scanner can image."""

    LIMB = "limb"


def demo_command(
    study: Annotated[Path | None, typer.Option(help="Push this folder of DICOM instead of a limb phantom.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Run the model in this folder instead of the built-in one.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps everything; nothing else is written.")] = Path(
        "demo"
    ),
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Take [work], [dispatch] and [[applications]] from this TOML file. Everything else "
            "is the demo's own: ports, the PACS, where data lie, and how long a study is waited for.",
        ),
    ] = None,
) -> None:
    """Do the main job once on this machine: a PACS, the node, a scanner, and the result."""
    from dicom_node.demo.main_job import run_demo

    logs.configure("demo", "ERROR")
    settings = None if config is None else load_settings(config)
    if not run_demo(folder, study, bundle, console, settings):
        raise typer.Exit(1)


def simulate_command(  # noqa: PLR0913 - a command has its options as parameters
    folders: Annotated[list[Path] | None, typer.Argument(help="Studies to send. Default: limb phantoms.")] = None,
    to: To = None,
    config: Config = None,
    calling: Calling = "SCANNER1",
    phantom: Annotated[Phantoms, typer.Option(help="What to image when no folder is named.")] = Phantoms.LIMB,
    patients: Annotated[int, typer.Option(min=1, help="How many phantoms, each a patient.")] = 1,
    timepoints: Annotated[int, typer.Option(min=1, max=4, help="Studies of each patient, some weeks apart.")] = 1,
    truth: Annotated[
        Path | None, typer.Option(help="Write the phantoms' true values to this file: JSON, by Study Instance UID.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Names the first phantom, and the order of shuffling.")] = 1,
    associations: Annotated[
        Associations, typer.Option(help="What an association of its own is opened for.")
    ] = Associations.SERIES,
    concurrency: Annotated[int, typer.Option(min=1, help="Associations open at once.")] = 1,
    shuffle: Annotated[bool, typer.Option(help="Send the images in random order.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Images per second, all associations together.")] = None,
) -> None:
    """Send studies as a scanner does: several series, several associations, several patients."""
    from dicom_node.demo.simulator.limb_study import write_limb_patient
    from dicom_node.demo.simulator.scanner import PushOptions, push
    from dicom_node.demo.simulator.study_files import load_study

    logs.configure("simulate", "ERROR")
    if folders and truth:
        raise Permanent(f"--truth {truth}: it is known of phantoms only; name no folder")
    target = find_target(to, config)
    scanner = checked_ae_title("--calling", calling or "SCANNER1")
    with TemporaryDirectory(prefix="dicom-node-") as temporary:
        series = list(load_study(folders).series.values()) if folders else []
        true_values: dict[str, Any] = {}
        for n in range(seed, seed + patients) if not folders else ():
            for written, values in write_limb_patient(Path(temporary), n, timepoints):
                console.print(f"Phantom {n}, time point {values['time_point']}: study", highlight=False)
                console.print(written.study_instance_uid, highlight=False, soft_wrap=True)
                series += [one.paths for one in written.series.values()]
                true_values[written.study_instance_uid] = values
        if truth:
            write_json(truth, true_values)
        report = push(
            series,
            target,
            scanner,
            PushOptions(associations, seed if shuffle else None, rate, concurrency),
        )
    console.print(
        f"{len(report.acknowledged)} of {report.sent} images acknowledged by {target} in {report.seconds:.1f} s "
        f"({report.images_per_second:.0f}/s)",
        highlight=False,
    )
    report_failures([(path.name, reason) for path, reason in report.failures])


def send_command(
    files: Annotated[list[Path], typer.Argument(help="Files, or folders of them.")],
    to: To = None,
    config: Config = None,
    calling: Calling = None,
) -> None:
    """Send DICOM files with C-STORE and check every answer."""
    from dicom_node.dimse.scu import find_files, send_files
    from storage.blobs import file_blobs

    logs.configure("send", "ERROR")
    settings, _ = read_config(config)
    target = find_target(to, config)
    own = checked_ae_title("--calling", calling or settings.node.ae_title)
    paths = find_files(files)
    if not paths:
        raise Permanent(f"There is no file in {', '.join(map(str, files))}: nothing is sent")
    results = send_files(file_blobs(paths), own, target, settings.dispatch.timeout_seconds)
    console.print(f"{sum(r.ok for r in results)} of {len(results)} accepted by {target}", highlight=False)
    report_failures([(p.name, r.reason) for p, r in zip(paths, results, strict=True) if not r.ok])


def recognise_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of DICOM files.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say what each series in a folder is taken for, and why; with the `[[series]]` of the configuration."""
    from dicom_node.demo.series_tree import series_tree
    from dicom_node.demo.simulator.study_files import load_study
    from dicom_node.route.headers import blob_headers
    from inference.series.recogniser import recognise_headers
    from storage.blobs import file_blobs

    settings, _ = read_config(config)
    site = settings.site_table
    series = load_study(folders).series.values()
    found = [recognise_headers(blob_headers(file_blobs(paths)), site) for paths in series]
    if as_json:
        print_json(found)
    else:
        console.print(series_tree(found))


def echo_command(
    to: Annotated[
        str | None, typer.Argument(help="AET@host:port, or a destination's name. Default: all of them.")
    ] = None,
    config: Config = None,
    calling: Calling = None,
) -> None:
    """Check that this node and its destinations answer: with C-ECHO, a query by QIDO-RS, or a look at the folder."""
    from dicom_node.dimse.scu import send_echo

    logs.configure("echo", "ERROR")
    settings, _ = read_config(config)
    own = checked_ae_title("--calling", calling or settings.node.ae_title)
    named = [d for d in settings.destinations if to in (None, d.name)]
    places = [(d.address, d.build(own, settings.dispatch.timeout_seconds).echo) for d in named]
    if to is None or not named:
        target = find_target(to, config)
        places.insert(0, (str(target), partial(send_echo, own, target)))
    failed = False
    for place, ask in places:
        result = ask()
        failed |= not result.ok
        verdict = f"[green]answers[/] in {result.seconds * 1000:.0f} ms" if result.ok else "[red]no answer[/]"
        console.print(f"{escape(place)}: {verdict}", highlight=False, soft_wrap=True)
        if not result.ok:
            console.print(f"  {escape(result.reason)}", highlight=False)
    if failed:
        raise typer.Exit(1)
