"""The stores of a test's node, as the commands and the page read them."""

import threading
from collections.abc import Callable

from dicom_node.index.indexer import Indexer
from dicom_node.read.stores import Stores
from storage.log.deletion.deletions import Deletions, Step, StudyFolders
from storage.log.filing.blobs import StoredBlobs
from storage.log.filing.release01 import OldFiles
from storage.log.index_log import IndexLog
from storage.log.kept_again import KeptHeaders
from storage.tables.commitments import Commitments
from storage.tables.confirmations import Confirmations
from storage.tables.patients import Patients
from storage.tables.problems import Problems
from storage.tables.procedure_steps import ProcedureSteps
from tests.storage.node import Node


def indexer_of(node: Node, wait: Callable[[threading.Event, float], bool] = threading.Event.wait) -> Indexer:
    old_files = OldFiles(node.database, node.instances, node.root)
    return Indexer(
        node.journals, node.instances, old_files, node.database, deletions_of(node), kept_headers_of(node), wait
    )


def kept_headers_of(node: Node) -> KeptHeaders:
    return KeptHeaders(node.database, StoredBlobs(node.journals, node.root))


def deletions_of(node: Node, step: Step = lambda name: None) -> Deletions:
    """The deletions of a node, under another log each time, as after a restart."""
    data_dir = node.root.parent
    by_study = (node.root, data_dir / "quarantine", data_dir / "objects")
    folders = StudyFolders(data_dir, node.journals, by_study, data_dir / "mpps")
    return Deletions(node.database, folders, IndexLog(data_dir / "index-log"), step)


def stores_of(node: Node) -> Stores:
    return Stores(
        installation="",
        database=node.database,
        instances=node.instances,
        studies=node.studies,
        jobs=node.jobs,
        no_results=node.no_results,
        results=node.results,
        deliveries=node.deliveries,
        procedure_steps=ProcedureSteps(node.database, node.root.parent / "mpps"),
        commitments=Commitments(node.database),
        confirmations=Confirmations(node.database),
        patients=Patients(node.database, node.root.parent / "patients.key"),
        problems=Problems(node.database),
    )
