"""The process of one worker: it owns a device, keeps models warm, and wires the worker.

The process is started by module path, `python -m dicom_node.work.process --device cuda:0`. No other process of the node
loads torch.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.catalogue import load_applications
from dicom_node.read.stores import open_stores
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.clock import machine_clock
from dicom_node.runtime.logs import configure
from dicom_node.runtime.notify import notify
from dicom_node.runtime.process import claim_role, die_with_parent, hold, role_name, stop_on_signals
from dicom_node.settings.loading import load_settings
from dicom_node.work.applications import WarmApplications
from dicom_node.work.output import NodeOrigin
from dicom_node.work.tasks import build_tasks
from dicom_node.work.worker import Worker
from inference.engine.devices import resolve_devices
from inference.engine.models import TorchEngine
from storage.errors import NodeError

RETRY_SECONDS = 5.0


def main(
    device: Annotated[str, typer.Option(help="The device this worker owns.")] = "cpu",
    config: Annotated[Path | None, typer.Option(help="The node's TOML file.")] = None,
    list_devices: Annotated[str | None, typer.Option(help="Print the devices this setting means, and end.")] = None,
) -> None:
    """Run one worker process of the node. `dicom-node work` starts one for each device."""
    if list_devices is not None:
        try:
            print(*resolve_devices(list_devices), sep="\n")
        except NodeError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(1) from None
        return
    configure(f"work-{device}")
    settings = load_settings(config)
    claim_role(settings.node.data_dir, f"work-{device}")
    stores = open_stores(settings.stores)
    name = role_name(f"work-{device}")
    stores.jobs.release_worker(name, "its worker was restarted", settings.work.maximum_attempts)
    worker = Worker(
        name=name,
        jobs=stores.jobs,
        perform=build_tasks(
            engine=TorchEngine(device),
            applications=WarmApplications(load_applications(settings.application_entries)),
            profiles={destination.name: destination.profile for destination in settings.destinations},
            instances=stores.instances,
            results=stores.results,
            objects_dir=settings.folders.objects,
            node=NodeOrigin(settings.node.ae_title, stores.installation, settings.node.zone),
        ).perform,
        backoff=Backoff(RETRY_SECONDS, RETRY_SECONDS * 8, settings.work.maximum_attempts),
        heartbeat_seconds=settings.work.heartbeat_seconds,
        job_timeout_seconds=settings.work.job_timeout_seconds,
        now=machine_clock(stores.database, settings.longest_wait_seconds).now,
    )
    die_with_parent()
    stop = stop_on_signals()
    thread = threading.Thread(target=worker.run, args=(stop,), name="work", daemon=True)
    thread.start()
    notify("READY=1")
    hold(stop, thread.is_alive)
    # A job may run for minutes more inside torch, which no signal interrupts. Give it back, and end now.
    stores.jobs.release_worker(name, "the worker was stopped", settings.work.maximum_attempts, counts=not stop.is_set())
    os._exit(0 if stop.is_set() else 1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except NodeError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
