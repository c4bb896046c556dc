"""Commands that run the node, or one of its roles."""

from collections.abc import Sequence
from typing import Annotated

import typer

from dicom_node import roles
from dicom_node.cli.options import Config, read_config
from dicom_node.read.stores import open_stores
from dicom_node.receive.receiver import ensure_port_is_free
from dicom_node.runtime import logs
from dicom_node.runtime.process import claim_role, run_role, share_memory_between_threads
from dicom_node.runtime.supervisor import Role, Supervisor


def run_command(config: Config = None) -> None:
    """Run the whole node: receive, index, schedule, work and dispatch under one supervisor."""
    settings, path = read_config(config)
    logs.configure("run")
    ensure_port_is_free(settings.receive.host, settings.receive.port)
    open_stores(settings.stores, upgrade=True).database.close()
    _supervise(roles.all_roles(settings, path))


def receive_command(
    config: Config = None,
    index: Annotated[int | None, typer.Option(help="Run only this one of `receive.processes`.", hidden=True)] = None,
) -> None:
    """Listen for C-ECHO and C-STORE; store durably, then answer."""
    settings, path = read_config(config)
    logs.configure("receive" if index is None else f"receive-{index}")
    if index is None:
        ensure_port_is_free(settings.receive.host, settings.receive.port)
    if index is None and settings.receive.processes > 1:
        _supervise(roles.receive_roles(settings, path))
    claim_role(settings.node.data_dir, f"receive-{index or 0}")
    share_memory_between_threads()
    receiver = roles.build_receiver(settings, index or 0)
    raise typer.Exit(run_role(receiver.run, receiver.start))


def index_command(config: Config = None) -> None:
    """Give a row to each instance that receivers have taken in."""
    settings, _ = read_config(config)
    logs.configure("index")
    claim_role(settings.node.data_dir, "index", of="everywhere")
    indexer = roles.build_indexer(settings)
    raise typer.Exit(run_role(indexer.run))


def schedule_command(config: Config = None) -> None:
    """Decide which studies are complete and route them to the applications."""
    settings, _ = read_config(config)
    logs.configure("schedule")
    claim_role(settings.node.data_dir, "schedule")
    raise typer.Exit(run_role(roles.build_scheduler(settings, open_stores(settings.stores)).run))


def work_command(config: Config = None) -> None:
    """Run the applications: one worker process for each device."""
    settings, path = read_config(config)
    logs.configure("work")
    _supervise(roles.worker_roles(settings, path))


def dispatch_command(config: Config = None) -> None:
    """Send the results to their destinations."""
    settings, _ = read_config(config)
    logs.configure("dispatch")
    claim_role(settings.node.data_dir, "dispatch")
    raise typer.Exit(run_role(roles.build_dispatcher(settings, open_stores(settings.stores)).run))


def _supervise(supervised: Sequence[Role]) -> None:
    raise typer.Exit(Supervisor(supervised).run())
