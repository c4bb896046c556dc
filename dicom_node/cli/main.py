"""The `dicom-node` command. Commands are thin: they read the settings, ask `app` for the parts, and print."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dicom_node import roles as wiring
from dicom_node.deliver.destinations.dimse import DimseSettings
from dicom_node.deliver.destinations.registry import destination_kind
from dicom_node.demo import views
from dicom_node.dimse.scu import Target
from dicom_node.errors import ConfigurationError
from dicom_node.index.fsck import take_census
from dicom_node.read.stores import Stores, open_existing, open_stores
from dicom_node.receive.receiver import ensure_port_is_free
from dicom_node.runtime.configuration import valid_ae_title
from dicom_node.runtime.logs import configure
from dicom_node.runtime.process import claim_role, keep_files_private, run_role, share_memory_between_threads
from dicom_node.runtime.supervisor import Role, Supervisor
from dicom_node.settings.model import Settings, find_config, inspect
from dicom_node.settings.model import load as load_settings
from storage.errors import NodeError, Permanent
from storage.records.commitments import Commitment, CommitmentState
from storage.records.completion import Waiting
from storage.records.deliveries import Delivery
from storage.records.jobs import Job, WithdrawalDetail
from storage.records.studies import Study, StudyState
from storage.tables.confirmations import WAITING
from storage.tables.database.connection import Database

cli = typer.Typer(
    name="dicom-node",
    help="A DICOM-native AI node: scanners push studies, the PACS receives segmentations and structured reports.\n\n"
    "Start with `dicom-node demo`, or write a node.toml, check it with `dicom-node check-config` and start "
    "`dicom-node run`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
database = typer.Typer(help="The database's schema.", no_args_is_help=True)
cli.add_typer(database, name="db")
console = Console()
errors = Console(stderr=True)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The TOML file. Default: $DICOM_NODE_CONFIG, ./node.toml, config/node.toml, "
        "/etc/dicom-node/node.toml, else built-in defaults."
    ),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyUID = Annotated[str, typer.Argument(help="Study Instance UID.")]

NODE = "Node"
OPERATE = "Operate"
TRY = "Try out"


class Associations(StrEnum):
    """How the simulated scanner divides what it sends."""

    SERIES = "series"
    INSTANCE = "instance"
    STUDY = "study"


class Phantoms(StrEnum):
    """What the simulated scanner images."""

    LIMB = "limb"


def main() -> None:
    """Entry point: errors of ours are one clear message, without a traceback."""
    keep_files_private()
    try:
        cli()
    except ConfigurationError as error:
        errors.print("[bold red]The configuration cannot be used:[/]")
        for mistake in error.mistakes:
            errors.print(f"  • {escape(mistake)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except NodeError as error:
        errors.print(f"[bold red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        sys.exit(1)


def _load(config: Path | None) -> tuple[Settings, Path | None]:
    path = config or find_config()
    return load_settings(path), path


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _supervise(roles: Sequence[Role]) -> None:
    raise typer.Exit(Supervisor(roles).run())


# -- the node --------------------------------------------------------------------------------------------------------


@cli.command(rich_help_panel=NODE)
def run(config: Config = None) -> None:
    """Run the whole node: receive, index, schedule, work and dispatch under one supervisor."""
    settings, path = _load(config)
    configure("run")
    ensure_port_is_free(settings.receive.host, settings.receive.port)
    open_stores(settings.stores, upgrade=True).database.close()
    _supervise(wiring.all_roles(settings, path))


@cli.command(rich_help_panel=NODE)
def receive(
    config: Config = None,
    index: Annotated[int | None, typer.Option(help="Run only this one of `receive.processes`.", hidden=True)] = None,
) -> None:
    """Listen for C-ECHO and C-STORE; store durably, then answer."""
    settings, path = _load(config)
    configure("receive" if index is None else f"receive-{index}")
    if index is None:
        ensure_port_is_free(settings.receive.host, settings.receive.port)
    if index is None and settings.receive.processes > 1:
        _supervise(wiring.receive_roles(settings, path))
    claim_role(settings.node.data_dir, f"receive-{index or 0}")
    share_memory_between_threads()
    receiver = wiring.build_receiver(settings, index or 0)
    raise typer.Exit(run_role(receiver.run, receiver.start))


@cli.command(rich_help_panel=NODE)
def index(config: Config = None) -> None:
    """File what receivers have taken in, and keep the index of it."""
    settings, _ = _load(config)
    configure("index")
    claim_role(settings.node.data_dir, "index", of="everywhere")
    indexer = wiring.build_indexer(settings)
    raise typer.Exit(run_role(indexer.run))


@cli.command(rich_help_panel=NODE)
def schedule(config: Config = None) -> None:
    """Decide which studies are complete and route them to the applications."""
    settings, _ = _load(config)
    configure("schedule")
    claim_role(settings.node.data_dir, "schedule")
    raise typer.Exit(run_role(wiring.build_scheduler(settings, open_stores(settings.stores)).run))


@cli.command(rich_help_panel=NODE)
def work(config: Config = None) -> None:
    """Run the applications: one worker process for each device."""
    settings, path = _load(config)
    configure("work")
    _supervise(wiring.worker_roles(settings, path))


@cli.command(rich_help_panel=NODE)
def dispatch(config: Config = None) -> None:
    """Send the results to their destinations."""
    settings, _ = _load(config)
    configure("dispatch")
    claim_role(settings.node.data_dir, "dispatch")
    raise typer.Exit(run_role(wiring.build_dispatcher(settings, open_stores(settings.stores)).run))


# -- operate ---------------------------------------------------------------------------------------------------------


@cli.command("check-config", rich_help_panel=OPERATE)
def check_config(
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check the configuration and all it names (model folders, devices, data_dir); report all mistakes together."""
    path = config or find_config()
    inspection = inspect(path)
    mistakes = wiring.mistakes(inspection)
    settings = inspection.settings
    if as_json:
        shown = settings and settings.model_dump(mode="json")
        _print_json({"file": path and str(path), "mistakes": mistakes, "settings": shown})
        raise typer.Exit(2 if mistakes else 0)
    if mistakes or settings is None:
        raise ConfigurationError(mistakes)
    console.print(f"[green]The configuration is good:[/] {path or 'built-in defaults'}")
    console.print(f"  listens as {settings.node.ae_title} on {settings.receive.host}:{settings.receive.port}")
    peers = ", ".join(p.ae_title for p in settings.peers) or "any peer (no [[peers]] are named)"
    console.print(f"  accepts {escape(peers)}")
    for application in settings.applications:
        console.print(f"  {escape(application.label)} → {escape(', '.join(application.destinations))}")
    if not settings.applications:
        console.print("  [yellow]no application is configured: studies are stored and nothing is computed[/]")


@cli.command(rich_help_panel=OPERATE)
def studies(
    config: Config = None,
    as_json: AsJson = False,
    state: Annotated[StudyState | None, typer.Option(help="Only studies in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 100,
) -> None:
    """List the studies: state, revision, and why."""
    _, stores = _existing(config)
    found = stores.studies.list(state=state, limit=limit)
    if as_json:
        _print_json([views.plain(study) for study in found])
    else:
        console.print(views.studies_view(found))


@cli.command(rich_help_panel=OPERATE)
def study(uid: StudyUID, config: Config = None, as_json: AsJson = False) -> None:
    """Show one study: its timeline with durations and reasons, its series, jobs, objects and deliveries."""
    detail, _ = _detail(config, uid)
    if as_json:
        _print_json(detail)
    else:
        console.print(views.study_view(detail))


@cli.command(rich_help_panel=OPERATE)
def explain(uid: StudyUID, config: Config = None, as_json: AsJson = False) -> None:
    """Say why a study is complete or what it waits for, what each series is, and which series fed which input."""
    detail, stores = _detail(config, uid)
    routing = stores.studies.routing(uid)
    awaited = wiring.completion_of(_load(config)[0], stores, uid)
    explained = views.explanation(detail, routing, awaited if isinstance(awaited, Waiting) else None)
    if as_json:
        _print_json(explained)
    else:
        console.print(views.explain_view(explained))


@cli.command(rich_help_panel=OPERATE)
def jobs(
    config: Config = None,
    as_json: AsJson = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what needs an operator: dead letters.")] = False,
    study: Annotated[str | None, typer.Option(help="Only this study's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the newest.")] = 100,
) -> None:
    """List the jobs and their deliveries, dead letters included."""
    settings, stores = _existing(config)
    if study is not None:
        _found(stores, study)
    listed = views.jobs_with_deliveries(
        stores.jobs.list(study=study), stores.deliveries.list(study=study), {d.name for d in settings.destinations}
    )
    if failed:
        listed = [j for j in listed if j["state"] == "FAILED" or any(d["state"] == "FAILED" for d in j["deliveries"])]
    listed = listed[-limit:]
    if as_json:
        _print_json(listed)
    else:
        console.print(views.jobs_view(listed))


@cli.command(rich_help_panel=OPERATE)
def commitments(
    config: Config = None,
    as_json: AsJson = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what needs an operator: dead letters.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 100,
) -> None:
    """List the peers' requests for storage commitment, and what they were told."""
    _, stores = _existing(config)
    found = stores.commitments.list([CommitmentState.FAILED] if failed else None, limit)
    if as_json:
        _print_json([views.plain(commitment) for commitment in found])
    else:
        console.print(views.commitments_table(found))


@cli.command(rich_help_panel=OPERATE)
def confirmations(
    config: Config = None,
    as_json: AsJson = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what destinations have not answered yet.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 100,
) -> None:
    """List what destinations were asked to confirm, and what they said."""
    _, stores = _existing(config)
    found = stores.confirmations.list(WAITING if waiting else None, limit)
    if as_json:
        _print_json([views.plain(confirmation) for confirmation in found])
    else:
        console.print(views.confirmations_table(found))


@cli.command(rich_help_panel=OPERATE)
def retry(
    config: Config = None,
    study: Annotated[
        str | None,
        typer.Option(help="Only this study, which is routed again as well: an application was added or repaired."),
    ] = None,
    job: Annotated[int | None, typer.Option(help="Only this job.")] = None,
    delivery: Annotated[int | None, typer.Option(help="Only this delivery.")] = None,
    commitment: Annotated[int | None, typer.Option(help="Only the report on this request for commitment.")] = None,
) -> None:
    """Queue again what failed for good: jobs, deliveries and commitment reports, all of them or the named ones."""
    _, stores = _existing(config)
    chosen = {"job": job, "delivery": delivery, "commitment report": commitment}
    if study is not None:
        _found(stores, study)
    if any(number is not None for number in chosen.values()):
        lines = _retried(stores, {what: [] if number is None else [number] for what, number in chosen.items()})
    else:
        reports = stores.commitments.list([CommitmentState.FAILED], limit=None) if study is None else []
        lines = _retried(
            stores,
            {
                "job": [j.id for j in stores.jobs.list(study=study) if views.is_dead(j)],
                "delivery": [d.id for d in stores.deliveries.list(study=study) if views.is_dead(d)],
                "commitment report": [c.id for c in reports],
            },
        )
    if study is not None and stores.studies.reroute(study):
        lines.append(
            f"study {study}: routed again; results that stand are kept, and new jobs are listed by "
            f"`dicom-node jobs --study {study}`"
        )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not lines:
        raise NodeError("Nothing to queue again: nothing has failed for good")


def _retried(stores: Stores, chosen: Mapping[str, Sequence[int]]) -> list[str]:
    """Queues what is FAILED again. Raises NodeError, before anything is changed, where one is not."""
    jobs = {j.id: j for j in stores.jobs.list()}
    deliveries = {d.id: d for d in stores.deliveries.list()}
    reports = {c.id: c for c in stores.commitments.list(limit=None)}
    known: dict[str, Mapping[int, Job | Delivery | Commitment]] = {
        "job": jobs, "delivery": deliveries, "commitment report": reports,
    }  # fmt: skip
    for what, numbers in chosen.items():
        for number in numbers:
            found = known[what].get(number)
            if found is None:
                where = "commitments" if what == "commitment report" else "jobs"
                raise NodeError(f"There is no {what} {number}; `dicom-node {where}` lists those there are")
            if not views.is_dead(found):
                raise NodeError(f"The {what} {number} is {found.state}; only what is FAILED can be queued again")
    lines = []
    for number in chosen["job"]:
        job = jobs[number]
        state = "QUEUED" if stores.jobs.retry(number) else "left as it is: another job replaced it"
        lines.append(f"job {number} ({job.application}, study {job.study_instance_uid}): {state}")
    for number in chosen["delivery"]:
        delivery = deliveries[number]
        state = "QUEUED" if stores.deliveries.retry(number) else "left as it is: it moved meanwhile"
        lines.append(f"delivery {number} ({delivery.object.kind} → {delivery.destination}): {state}")
    for number in chosen["commitment report"]:
        queued = stores.commitments.retry(number, datetime.now(UTC))
        state = "QUEUED" if queued else "left as it is: it moved meanwhile"
        lines.append(f"commitment report {number} ({reports[number].peer_ae_title}): {state}")
    return lines


@cli.command(rich_help_panel=OPERATE)
def withdraw(
    job: Annotated[int, typer.Argument(help="The job whose results are withdrawn; `dicom-node jobs` lists them.")],
    config: Config = None,
    reason: Annotated[str, typer.Option(help="Why, for the study's timeline. Name no patient.")] = "",
) -> None:
    """Take back a job's results: destinations that got some get a rejection note, and the rest is not sent."""
    _, stores = _existing(config)
    found = stores.jobs.get(job)
    if found is None:
        raise NodeError(f"There is no job {job}; `dicom-node jobs` lists those there are")
    withdrawal = stores.jobs.withdraw(job, reason, datetime.now(UTC))
    if withdrawal is None:
        raise NodeError(views.why_not_withdrawn(found))
    assert isinstance(withdrawal.detail, WithdrawalDetail)
    destinations = ", ".join(withdrawal.detail.objects) or "nobody: nothing was sent yet"
    console.print(
        f"job {job} ({found.application}, study {found.study_instance_uid}): withdrawn; job {withdrawal.id} tells "
        f"{destinations}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


@cli.command(rich_help_panel=OPERATE)
def fsck(
    config: Config = None,
    as_json: AsJson = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First file what the journals hold and index what has no row.")
    ] = False,
) -> None:
    """Check that everything that was acknowledged is here, whole and indexed. Reads every file; exit status 1 if not.

    Checking is safe while the node runs. For --repair the role `index` must be stopped.
    """
    settings, path = _load(config)
    stores = open_stores(settings.stores, upgrade=True) if repair else open_existing(settings.stores, path)
    if repair:
        owner = settings.node.data_dir.stat().st_uid
        if owner != os.geteuid():  # what it makes would belong to somebody else, and the node could not write there
            raise NodeError(
                f"Run this as the user who runs the node (number {owner}), who owns {settings.node.data_dir}"
            )
        claim_role(settings.node.data_dir, "index", of="everywhere")
        indexer = wiring.build_indexer(settings)
        indexer.rebuild()
        indexer.advance()
    census = take_census(settings.node.data_dir, stores.instances, settings.folders.journals)
    if as_json:
        _print_json(views.plain(census))
    else:
        console.print(views.census_view(census))
    raise typer.Exit(1 if census.problems else 0)


@database.command("upgrade")
def upgrade(config: Config = None) -> None:
    """Bring the database's schema to this version."""
    settings, _ = _load(config)
    settings.folders.make()
    Database(settings.database_url).upgrade()
    console.print("The database is up to date")


def _existing(config: Path | None) -> tuple[Settings, Stores]:
    settings, path = _load(config)
    return settings, open_existing(settings.stores, path)


def _found(stores: Stores, uid: str) -> Study:
    found: Study | None = stores.studies.get(uid)
    if found is None:
        raise NodeError(f"There is no study {uid} here; `dicom-node studies` lists those there are")
    return found


def _detail(config: Path | None, uid: str) -> tuple[views.Plain, Stores]:
    settings, stores = _existing(config)
    detail = views.study_detail(
        _found(stores, uid), stores.studies, stores.instances, stores.jobs, stores.results, stores.deliveries,
        stores.procedure_steps.of_study(uid), {d.name for d in settings.destinations},
    )  # fmt: skip
    return detail, stores


# -- try out ---------------------------------------------------------------------------------------------------------

To = Annotated[
    str | None,
    typer.Option(help="AET@host:port, or the name of a configured destination. Default: this node."),
]
Calling = Annotated[str | None, typer.Option(help="Our AE title in the association.")]


@cli.command(rich_help_panel=TRY)
def demo(
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

    configure("demo", "ERROR")
    settings = None if config is None else load_settings(config)
    if not run_demo(folder, study, bundle, console, settings):
        raise typer.Exit(1)


@cli.command(rich_help_panel=TRY)
def simulate(
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
    associations: Annotated[Associations, typer.Option(help="One association for each ...")] = Associations.SERIES,
    concurrency: Annotated[int, typer.Option(min=1, help="Associations open at once.")] = 1,
    shuffle: Annotated[bool, typer.Option(help="Send the images in random order.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Images per second, all associations together.")] = None,
) -> None:
    """Send studies as a scanner does: several series, several associations, several patients."""
    from dicom_node.demo.simulator.limb_study import write_limb_patient
    from dicom_node.demo.simulator.scanner import push
    from dicom_node.demo.simulator.study import load_study

    configure("simulate", "ERROR")
    if folders and truth:
        raise Permanent(f"--truth {truth}: it is known of phantoms only; name no folder")
    target = _target(to, config)
    scanner = _ae_title("--calling", calling or "SCANNER1")
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
            _write_json(truth, true_values)
        report = push(
            series,
            target,
            scanner,
            associations=associations.value,
            shuffle=seed if shuffle else None,
            rate=rate,
            concurrency=concurrency,
        )
    console.print(
        f"{len(report.acknowledged)} of {report.sent} images acknowledged by {target} in {report.seconds:.1f} s "
        f"({report.images_per_second:.0f}/s)",
        highlight=False,
    )
    _report_failures([(path.name, reason) for path, reason in report.failures])


@cli.command(rich_help_panel=TRY)
def send(
    files: Annotated[list[Path], typer.Argument(help="Files, or folders of them.")],
    to: To = None,
    config: Config = None,
    calling: Calling = None,
) -> None:
    """Send DICOM files with C-STORE and check every answer."""
    from dicom_node.dimse.scu import find_files, send_files

    configure("send", "ERROR")
    settings, _ = _load(config)
    target = _target(to, config)
    own = _ae_title("--calling", calling or settings.node.ae_title)
    paths = find_files(files)
    if not paths:
        raise Permanent(f"There is no file in {', '.join(map(str, files))}: nothing is sent")
    results = send_files(paths, own, target, settings.dispatch.timeout_seconds)
    console.print(f"{sum(r.ok for r in results)} of {len(results)} accepted by {target}", highlight=False)
    _report_failures([(p.name, r.reason) for p, r in zip(paths, results, strict=True) if not r.ok])


@cli.command(rich_help_panel=TRY)
def recognise(
    folders: Annotated[list[Path], typer.Argument(help="Folders of DICOM files.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say what each series in a folder is taken for, and why; with the `[[series]]` of the configuration."""
    from dicom_node.demo.simulator.study import load_study
    from inference.series.recogniser import read_headers, recognise_headers

    settings, _ = _load(config)
    site = [entry.rule for entry in settings.series]
    found = [recognise_headers(read_headers(paths), site) for paths in load_study(folders).series.values()]
    if as_json:
        _print_json([views.plain(series) for series in found])
    else:
        console.print(views.recognised_view(found))


@cli.command(rich_help_panel=TRY)
def echo(
    to: Annotated[
        str | None, typer.Argument(help="AET@host:port, or a destination's name. Default: all of them.")
    ] = None,
    config: Config = None,
    calling: Calling = None,
) -> None:
    """Check that this node and its destinations answer: with C-ECHO, a query by QIDO-RS, or a look at the folder."""
    from dicom_node.dimse.scu import send_echo

    configure("echo", "ERROR")
    settings, _ = _load(config)
    own = _ae_title("--calling", calling or settings.node.ae_title)
    settings = settings.model_copy(update={"node": settings.node.model_copy(update={"ae_title": own})})
    named = [d for d in settings.destinations if to in (None, d.name)]
    places = [(d.address, wiring.build_destination(d, settings).echo) for d in named]
    if to is None or not named:
        target = _target(to, config)
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


def _target(to: str | None, config: Path | None) -> Target:
    """AET@host:port, a destination of the configuration, or this node itself."""
    settings, _ = _load(config)
    if to is None:
        host = settings.receive.host
        return Target(settings.node.ae_title, "127.0.0.1" if host == "0.0.0.0" else host, settings.receive.port)  # noqa: S104
    for destination in settings.destinations:
        if destination.name == to:
            if not isinstance(destination, DimseSettings):
                kind = destination_kind(destination)
                raise Permanent(f"{to!r} is a destination of kind {kind!r}; this command needs one of 'dimse'")
            return Target(destination.ae_title, destination.host, destination.port)
    ae_title, at, address = to.partition("@")
    host, colon, port = address.rpartition(":")
    if not (ae_title and at and host and colon and port.isdigit()):
        names = ", ".join(d.name for d in settings.destinations) or "none"
        raise Permanent(f"{to!r} is neither AET@host:port nor the name of a destination; configured: {names}")
    if not 1 <= int(port) <= 65535:
        raise Permanent(f"{to!r}: {port} is no port; allowed: 1 to 65535")
    return Target(_ae_title(to, ae_title), host, int(port))


def _ae_title(what: str, value: str) -> str:
    try:
        return valid_ae_title(value)
    except ValueError as error:
        raise Permanent(f"{what}: {value!r} is no AE title; {error}") from None


def _write_json(path: Path, value: Any) -> None:
    try:
        path.write_text(json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise Permanent(f"{path} cannot be written ({error.strerror}); name another file") from None


def _report_failures(failures: Sequence[tuple[str, str]]) -> None:
    for name, reason in failures[:20]:
        errors.print(f"  {escape(name)}: {escape(reason)}", highlight=False)
    if len(failures) > 20:
        errors.print(f"  and {len(failures) - 20} more")
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
