"""Commands that show what the node does. They change nothing."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group
from rich.markup import escape

from dicom_node.cli.options import AsJson, Config, StudyUID, find_study, open_node
from dicom_node.cli.output import console, print_json, print_lines
from dicom_node.complete.preview import preview
from dicom_node.demo.explanation_tree import explanation_tree
from dicom_node.demo.study_page import study_page, summary_lines
from dicom_node.demo.tables import commitments_table, confirmations_table, jobs_list, problems_list, studies_list
from dicom_node.errors import ConfigurationError
from dicom_node.read.explanation import Explanation
from dicom_node.read.jobs import list_jobs
from dicom_node.read.problems import find_problem, list_problems
from dicom_node.read.stores import Stores
from dicom_node.read.study import read_study
from dicom_node.read.summary import summarise, trial_lines
from dicom_node.roles import try_configuration
from dicom_node.settings.check import find_mistakes, find_notes
from dicom_node.settings.loading import find_config, inspect_config
from dicom_node.settings.model import Settings
from storage.records.commitments import CommitmentState
from storage.records.completion import Waiting
from storage.records.problems import Problem
from storage.records.studies import StudyState
from storage.tables.confirmations import WAITING

PROBLEMS_EXIST = 3  # 1 is an error, and 2 a mistake in the call or in the configuration

OnlyFailed = Annotated[bool, typer.Option("--failed", help="Only what needs an operator: dead letters.")]
AllOfStudy = Annotated[bool, typer.Option("--all", help="Show UIDs and the series one by one as well.")]
AllDecisions = Annotated[bool, typer.Option("--all", help="Show UIDs and every series against every input as well.")]
Newest = Annotated[int, typer.Option(min=1, help="At most this many, newest first.")]


def check_config_command(config: Config = None, as_json: AsJson = False) -> None:
    """Check the configuration and all it names (model folders, devices, data_dir); report all mistakes together."""
    path = config or find_config()
    inspection = inspect_config(path)
    mistakes = find_mistakes(inspection)
    settings = inspection.settings
    if as_json:
        shown = settings and settings.model_dump(mode="json")
        print_json({"file": path, "mistakes": mistakes, "notes": find_notes(inspection), "settings": shown})
        raise typer.Exit(2 if mistakes else 0)
    if mistakes or settings is None:
        raise ConfigurationError(mistakes)
    console.print(f"[green]The configuration is good:[/] {path or 'built-in defaults'}")
    console.print(f"  listens as {settings.node.ae_title} on {settings.receive.host}:{settings.receive.port}")
    peers = ", ".join(p.ae_title for p in settings.peers) or "any peer (no [[peers]] are named)"
    console.print(f"  accepts {escape(peers)}")
    for application in settings.applications:
        console.print(f"  {escape(application.label)} → {escape(', '.join(application.destinations))}")
    for note in find_notes(inspection):
        console.print(f"  [yellow]{escape(note)}[/]", soft_wrap=True)
    if not settings.applications:
        console.print("  [yellow]no application is configured: studies are stored and nothing is computed[/]")


def studies_command(
    config: Config = None,
    as_json: AsJson = False,
    state: Annotated[StudyState | None, typer.Option(help="Only studies in this state.")] = None,
    limit: Newest = 100,
) -> None:
    """List the studies: state, revision, and why."""
    _, stores = open_node(config)
    found = stores.studies.list(state=state, limit=limit)
    if as_json:
        print_json(found)
    else:
        console.print(studies_list(found))


def study_command(
    uid: StudyUID, config: Config = None, as_json: AsJson = False, everything: AllOfStudy = False
) -> None:
    """Show one study: what became of it, its timeline with durations and reasons, and its results."""
    explanation = _explain(uid, config)
    if as_json:
        print_json(explanation.detail)
    else:
        console.print(study_page(explanation.detail, summarise(explanation), everything))


def explain_command(
    uid: StudyUID, config: Config = None, as_json: AsJson = False, everything: AllDecisions = False
) -> None:
    """Say why a study is complete or what it waits for, and which series fed which input of which application.

    With --config, that configuration is tried on the images of the study as well, without running it.
    """
    explanation = _explain(uid, config)
    problem = ""
    if config is not None:
        settings, stores = open_node(config)
        try:
            trial = try_configuration(settings, stores, explanation.detail.study)
            explanation = replace(explanation, trial=trial)
        except OSError as error:
            problem = f"{config} cannot be tried, because the images cannot be read ({error.strerror})"
    if as_json:
        print_json(explanation)
        return
    answer = summary_lines(explanation.detail, summarise(explanation))
    console.print(Group(answer, explanation_tree(explanation)) if everything else answer)
    for line in [problem] if problem else trial_lines(explanation, str(config)):
        console.print(escape(line), highlight=False, soft_wrap=True)


def _explain(uid: str, config: Config) -> Explanation:
    settings, stores = open_node(config)
    detail = read_study(stores, find_study(stores, uid), {d.name for d in settings.destinations})
    decided = preview(stores.studies, settings.completion.rule, settings.folders.journals, uid)
    return Explanation(detail, stores.studies.routing(uid), decided if isinstance(decided, Waiting) else None)


def jobs_command(
    config: Config = None,
    as_json: AsJson = False,
    failed: OnlyFailed = False,
    study: Annotated[str | None, typer.Option(help="Only this study's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the newest.")] = 100,
) -> None:
    """List the jobs and their deliveries, dead letters included."""
    settings, stores = open_node(config)
    if study is not None:
        find_study(stores, study)
    destinations = {d.name for d in settings.destinations}
    rows = list_jobs(stores.jobs.list(study=study), stores.deliveries.list(study=study), destinations)
    shown = [row for row in rows if row.is_failed or not failed][-limit:]
    if as_json:
        print_json(shown)
    else:
        console.print(jobs_list(shown))


def problems_command(
    config: Config = None,
    as_json: AsJson = False,
    everything: Annotated[bool, typer.Option("--all", help="Show what was acknowledged as well.")] = False,
) -> None:
    """List what a person should look at. Exit status 3 if anything is not acknowledged, 0 if nothing is."""
    settings, stores = open_node(config)
    found = _problems(settings, stores)
    unseen = [problem for problem in found if problem.acknowledged_at is None]
    shown = found if everything else unseen
    if as_json:
        print_json(shown)
    else:
        console.print(problems_list(shown, len(found) - len(shown)))
    raise typer.Exit(PROBLEMS_EXIST if unseen else 0)


def acknowledge_command(
    problem: Annotated[str, typer.Argument(help="Its name, as `dicom-node problems` shows it: KIND/KEY.")],
    config: Config = None,
    note: Annotated[str, typer.Option(help="What was found or done. Name no patient.")] = "",
) -> None:
    """Note that a problem was seen. It is listed again once it changes or returns."""
    settings, stores = open_node(config)
    found = find_problem(_problems(settings, stores), problem)
    stores.problems.acknowledge(found, note)
    print_lines([f"{found.name}: acknowledged"])


def _problems(settings: Settings, stores: Stores) -> Sequence[Problem]:
    now = datetime.now(UTC)
    peers = {peer.ae_title for peer in settings.peers}
    return list_problems(stores, settings.problem_limits(now), peers, now)


def commitments_command(
    config: Config = None, as_json: AsJson = False, failed: OnlyFailed = False, limit: Newest = 100
) -> None:
    """List the peers' requests for storage commitment, and what they were told."""
    _, stores = open_node(config)
    found = stores.commitments.list([CommitmentState.FAILED] if failed else None, limit)
    if as_json:
        print_json(found)
    else:
        console.print(commitments_table(found))


def confirmations_command(
    config: Config = None,
    as_json: AsJson = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what destinations have not answered yet.")] = False,
    limit: Newest = 100,
) -> None:
    """List what destinations were asked to confirm, and what they said."""
    _, stores = open_node(config)
    found = stores.confirmations.list(WAITING if waiting else None, limit)
    if as_json:
        print_json(found)
    else:
        console.print(confirmations_table(found))
