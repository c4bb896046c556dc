"""Commands that repair: they deal with dead letters, wrong results, and files and rows that differ."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from dicom_node import roles
from dicom_node.cli.options import AsJson, Config, find_study, open_node, read_config, refuse_other_user
from dicom_node.cli.output import console, print_json, print_lines
from dicom_node.demo.tables import census_lines
from dicom_node.index.fsck import take_census
from dicom_node.read.jobs import is_dead, why_not_withdrawn
from dicom_node.read.stores import Stores, open_existing, open_stores
from dicom_node.runtime.process import claim_role
from storage.errors import NodeError
from storage.records.commitments import Commitment, CommitmentState
from storage.records.deliveries import Delivery
from storage.records.jobs import Job, WithdrawalDetail
from storage.tables.database.connection import Database


def retry_command(
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
    _, stores = open_node(config)
    chosen = {"job": job, "delivery": delivery, "commitment report": commitment}
    if study is not None:
        find_study(stores, study)
    if any(number is not None for number in chosen.values()):
        lines = _queue_again(stores, {what: [] if number is None else [number] for what, number in chosen.items()})
    else:
        reports = stores.commitments.list([CommitmentState.FAILED], limit=None) if study is None else []
        lines = _queue_again(
            stores,
            {
                "job": [j.id for j in stores.jobs.list(study=study) if is_dead(j)],
                "delivery": [d.id for d in stores.deliveries.list(study=study) if is_dead(d)],
                "commitment report": [c.id for c in reports],
            },
        )
    if study is not None and stores.studies.reroute(study):
        lines.append(
            f"study {study}: routed again; results that stand are kept, and new jobs are listed by "
            f"`dicom-node jobs --study {study}`"
        )
    print_lines(lines)
    if not lines:
        raise NodeError("Nothing to queue again: nothing has failed for good")


def _queue_again(stores: Stores, chosen: Mapping[str, Sequence[int]]) -> list[str]:
    """Queue dead letters again, and print a line for each. Raises NodeError, at first, if one is no dead letter."""
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
            if not is_dead(found):
                raise NodeError(f"The {what} {number} is {found.state}; only what is FAILED can be queued again")
    lines = []
    for number in chosen["job"]:
        job = jobs[number]
        state = "QUEUED" if stores.jobs.retry(number) else "left as it is: another job replaced it"
        lines.append(f"job {number} ({job.title}, study {job.study_instance_uid}): {state}")
    for number in chosen["delivery"]:
        delivery = deliveries[number]
        state = "QUEUED" if stores.deliveries.retry(number) else "left as it is: it moved meanwhile"
        lines.append(f"delivery {number} ({delivery.object.kind} → {delivery.destination}): {state}")
    for number in chosen["commitment report"]:
        queued = stores.commitments.retry(number, datetime.now(UTC))
        state = "QUEUED" if queued else "left as it is: it moved meanwhile"
        lines.append(f"commitment report {number} ({reports[number].peer_ae_title}): {state}")
    return lines


def withdraw_command(
    job: Annotated[int, typer.Argument(help="The job whose results are withdrawn; `dicom-node jobs` lists them.")],
    config: Config = None,
    reason: Annotated[str, typer.Option(help="Why, for the study's timeline. Name no patient.")] = "",
) -> None:
    """Take back a job's results: destinations that got some get a rejection note, and the rest is not sent."""
    _, stores = open_node(config)
    found = stores.jobs.get(job)
    if found is None:
        raise NodeError(f"There is no job {job}; `dicom-node jobs` lists those there are")
    withdrawal = stores.results.withdraw(job, reason, datetime.now(UTC))
    if withdrawal is None:
        raise NodeError(why_not_withdrawn(found))
    assert isinstance(withdrawal.detail, WithdrawalDetail)
    destinations = ", ".join(withdrawal.detail.objects) or "nobody: nothing was sent yet"
    told = f"withdrawn; job {withdrawal.id} tells {destinations}"
    print_lines([f"job {job} ({found.title}, study {found.study_instance_uid}): {told}"])


def fsck_command(
    config: Config = None,
    as_json: AsJson = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First file what the journals hold and index what has no row.")
    ] = False,
) -> None:
    """Check that everything that was acknowledged is here, whole and indexed. Exit status 1 if not.

    Every instance is read. Checking is safe while the node runs. For --repair the role `index` must be stopped.
    """
    settings, path = read_config(config)
    stores = open_stores(settings.stores, upgrade=True) if repair else open_existing(settings.stores, path)
    if repair:
        refuse_other_user(settings)
        claim_role(settings.node.data_dir, "index", of="everywhere")
        indexer = roles.build_indexer(settings)
        indexer.start_over()
        indexer.advance()
    census = take_census(settings.folders, stores)
    if as_json:
        print_json(census)
    else:
        console.print(census_lines(census))
    raise typer.Exit(1 if census.problems else 0)


def upgrade_command(config: Config = None) -> None:
    """Bring the database's schema to this version."""
    settings, _ = read_config(config)
    settings.folders.make()
    Database(settings.database_url).upgrade()
    console.print("The database is up to date")
