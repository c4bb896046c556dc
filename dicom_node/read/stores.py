"""The stores of a node, opened in the same way by every role, every command and the tests."""

from dataclasses import dataclass
from pathlib import Path

from dicom_node.read.folders import NodeFolders
from inference.headers.images import feeds_inputs
from storage.errors import NodeError
from storage.log.instances import InstanceStore
from storage.tables.commitments import Commitments
from storage.tables.confirmations import Confirmations
from storage.tables.database.connection import Database, sqlite_file
from storage.tables.database.installation import check_installation, claim_installation
from storage.tables.deliveries import Deliveries
from storage.tables.jobs import Jobs
from storage.tables.patients import Patients
from storage.tables.problems import Problems
from storage.tables.procedure_steps import ProcedureSteps
from storage.tables.queueing import NoResults
from storage.tables.results import Results
from storage.tables.studies import Studies


@dataclass(frozen=True)
class StoresConfig:
    """The place of the stores."""

    folders: NodeFolders
    database_url: str


@dataclass(frozen=True)
class Stores:
    """The tables and folders that the roles share, and the identity of the installation that they belong to."""

    installation: str

    database: Database
    instances: InstanceStore
    studies: Studies
    jobs: Jobs
    no_results: NoResults
    results: Results
    deliveries: Deliveries
    procedure_steps: ProcedureSteps
    commitments: Commitments
    confirmations: Confirmations
    patients: Patients
    problems: Problems


def open_stores(config: StoresConfig, upgrade: bool = False) -> Stores:
    """Open the database and the folder of instances, create them if they are absent, and return the stores.

    Raises Permanent if the folder cannot be created, if the schema is not that of this version, or if the database
    belongs to another data directory. With `upgrade`, an older schema is upgraded instead.
    """
    config.folders.make()
    database = Database(config.database_url)
    if upgrade:
        database.upgrade()
    else:
        database.check_current()
    return _stores(database, config, claim_installation(database, config.folders.installation))


def open_existing(config: StoresConfig, config_file: Path | None) -> Stores:
    """Open the stores of a node that has run before, and create nothing. Raises NodeError if there is no such node.

    `config_file` is the file that names the place of the stores; None stands for the built-in configuration.
    """
    file = sqlite_file(config.database_url)
    if file is not None and not file.is_file():
        raise NodeError(
            f"There is no database yet: {file} does not exist, where {config_file or 'the built-in configuration'} "
            "says it is. `dicom-node run` makes it; another configuration is named with --config"
        )
    database = Database(config.database_url)
    database.check_current()
    return _stores(database, config, check_installation(database, config.folders.installation))


def _stores(database: Database, config: StoresConfig, installation: str) -> Stores:
    return Stores(
        installation=installation,
        database=database,
        instances=InstanceStore(database, config.folders.journals, config.folders.instances, feeds_inputs),
        studies=Studies(database),
        jobs=Jobs(database),
        no_results=NoResults(database),
        results=Results(database),
        deliveries=Deliveries(database),
        procedure_steps=ProcedureSteps(database, config.folders.procedure_steps),
        commitments=Commitments(database),
        confirmations=Confirmations(database),
        patients=Patients(database, config.folders.patients_key),
        problems=Problems(database),
    )
