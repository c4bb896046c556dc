"""Commands that copy stored studies out of the node, or delete them for good."""

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_node import roles
from dicom_node.cli.options import AsJson, Config, StudyUID, find_study, open_node, refuse_other_user
from dicom_node.cli.output import error_console, print_json, print_lines, report_failures
from dicom_node.index.indexer import Indexer
from dicom_node.read.stores import Stores
from dicom_node.runtime.process import claim_role
from dicom_node.settings.model import Settings
from storage.errors import NodeError, Permanent
from storage.log.deletion.deletions import check_deletion
from storage.log.deletion.records import DeletionRequest
from storage.log.deletion.requests import DeletionRequests
from storage.log.export import export_instances
from storage.records.studies import Event, Stage

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 120.0  # for a job that is to stop, or for a disk that has no room


def export_command(
    uid: StudyUID,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write the instances of a study as files, as they were received: FOLDER/<series>/<SOP instance>.dcm.

    Of an instance that came in several versions, the newest is written. Exit status 1 if any instance is damaged.
    """
    _, stores = open_node(config)
    find_study(stores, uid)
    exported = export_instances(stores.instances.instances(uid), folder)
    if as_json:
        print_json({"study_instance_uid": uid, "folder": folder, **vars(exported)})
    else:
        print_lines([f"study {uid}: {exported.instances} instances ({exported.size} bytes) are in {folder}"])
    report_failures(exported.failures)


def delete_command(
    uid: StudyUID,
    reason: Annotated[str, typer.Option(help="Why, for the record that stays. Name no patient.")],
    config: Config = None,
    as_json: AsJson = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    even_if_undelivered: Annotated[
        bool,
        typer.Option(
            "--even-if-undelivered",
            help="Give up results that a destination has not got or not confirmed, and withdrawals that are not done.",
        ),
    ] = False,
) -> None:
    """Delete a study for good: images in all versions, results, procedure steps, and all that is known of it.

    What stays is a line that it was deleted, when and why. The bytes are destroyed on this disk. Other systems are not
    told, and backups are not touched; a backup of the database that is restored later does not bring the study back.
    Jobs of the study are cancelled, and one that runs is stopped first. Images that arrive later are a new study.
    """
    settings, stores = open_node(config)
    refuse_other_user(settings)
    if not reason.strip():
        raise NodeError("Say why with --reason; the record of the deletion keeps it")
    if not check_deletion(stores.database, uid, even_if_undelivered):
        find_study(stores, uid)
    if not yes:
        _confirm(stores, uid)
    request = DeletionRequest(secrets.token_hex(16), uid, reason.strip(), datetime.now(UTC), even_if_undelivered)
    DeletionRequests(settings.folders.index_log).leave(request)
    _carry_out(settings, request)
    told = _find_record(stores, request)
    if told is None:
        check_deletion(stores.database, uid, even_if_undelivered)
        raise NodeError(f"The study {uid} was not deleted; the log of the index role says why")
    if as_json:
        print_json({"study_instance_uid": uid, "at": told.at, **told.data})
    else:
        print_lines([f"study {uid}: {told.text}"])


def _confirm(stores: Stores, uid: str) -> None:
    study = stores.studies.get(uid)
    instances = 0 if study is None else study.instances
    results = len(stores.results.objects(uid))
    question = f"Delete the study {uid} for good, with {instances} instances and {results} result objects?"
    typer.confirm(question, abort=True, err=True)


def _carry_out(settings: Settings, request: DeletionRequest) -> None:
    """Have the index role carry out a request, or take its place if it does not run."""
    indexer = _indexer_unless_running(settings)
    requests = DeletionRequests(settings.folders.index_log)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while requests.is_waiting(request.key):
        if indexer is not None:
            indexer.advance()
            indexer.carry_out_deletions()
        if time.monotonic() > deadline:
            raise NodeError(
                f"The study {request.study_instance_uid} is not deleted yet. The index role deletes it as soon as it "
                "can; its log says what it waits for"
            )
        time.sleep(LOOK_SECONDS)
    if indexer is not None:
        indexer.close()


def _indexer_unless_running(settings: Settings) -> Indexer | None:
    try:
        claim_role(settings.node.data_dir, "index", of="everywhere")
    except Permanent:
        error_console.print("The index role deletes the study", highlight=False)
        return None
    return roles.build_indexer(settings)


def _find_record(stores: Stores, request: DeletionRequest) -> Event | None:
    events = stores.studies.events(request.study_instance_uid)
    mine = (one for one in events if one.stage is Stage.DELETED and one.data.get("deletion") == request.key)
    return next(mine, None)
