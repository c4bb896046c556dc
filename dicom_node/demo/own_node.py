"""The node of the demo: its configuration, and its process."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicom_node.catalogue import configured_applications
from dicom_node.demo.pacs.base import Pacs
from dicom_node.dimse.scu import Target, send_echo
from dicom_node.settings.model import ApplicationSettings, Settings
from storage.errors import NodeError, Permanent

AE_TITLE = "DICOM_NODE"
SCANNER = "SCANNER1"
NODE_START_SECONDS = 120.0
NODE_STOP_SECONDS = 30.0

CONFIG = """\
# Written by `dicom-node demo`. Look at its results with, for example:
#   {command} studies --config {path}
[node]
ae_title = "{ae_title}"
data_dir = "node"

[receive]
host = "127.0.0.1"
port = {port}

[completion]
quiet_seconds = 3

[[peers]]
ae_title = "{scanner}"

[[destinations]]
name = "pacs"
kind = "dimse"
ae_title = "{pacs.ae_title}"
host = "{pacs.host}"
port = {pacs.port}
"""
TAKEN_OVER = ("work", "dispatch")  # sections that the demo takes from the user's own configuration


def choose_applications(bundle: Path | None, settings: Settings | None) -> tuple[ApplicationSettings, ...]:
    """Return the applications of the demo: the user's `bundle`, those of `settings`, or else `soft_tissue_mass`.

    Raises Permanent if one of them cannot be used.
    """
    chosen: tuple[ApplicationSettings, ...] = ()
    if bundle is not None:
        own = ApplicationSettings(id="segmentation", name="own_model", bundle=bundle.resolve(), destinations=("pacs",))
        chosen = (own,)
    elif settings is not None:
        chosen = settings.applications
    chosen = chosen or (ApplicationSettings(id="soft_tissue_mass", destinations=("pacs",)),)
    configured = configured_applications([application.entry for application in chosen])
    if broken := [a.problem for a in configured if a.manifest is None]:
        raise Permanent("; ".join(broken))
    return chosen


def write_config(
    folder: Path, port: int, pacs: Pacs, applications: Sequence[ApplicationSettings], settings: Settings | None
) -> Path:
    """Write the configuration of the node into `folder`, with one peer, the scanner, and one destination, the PACS."""
    path = folder / "node.toml"
    text = CONFIG.format(path=path, command=own_command(), ae_title=AE_TITLE, port=port, scanner=SCANNER, pacs=pacs)
    if settings is not None:
        for section in TAKEN_OVER:
            text += f"\n[{section}]\n" + _toml(getattr(settings, section).model_dump(mode="json"))
    for application in applications:
        bundle = None if application.bundle is None else str(application.bundle)
        entry = {"id": application.id, "name": application.label, "bundle": bundle, "destinations": ["pacs"]}
        text += "\n[[applications]]\n" + _toml(entry)
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def running_node(config: Path, log: Path, node: Target) -> Iterator[None]:
    """Run the node while the block runs; the block begins when the node answers an echo. Raises NodeError."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node.cli.main", "run", "--config", str(config)],
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which stops the node in order
            env={**os.environ, "DICOM_NODE_SUPERVISOR": str(os.getpid())},
        )
    try:
        deadline = time.monotonic() + NODE_START_SECONDS
        while not send_echo(SCANNER, node, timeout=2).ok:
            if process.poll() is not None or time.monotonic() > deadline:
                raise NodeError(f"The node does not start; its log is {log}")
            time.sleep(0.3)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(NODE_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def own_command() -> str:
    """Return the command of the `dicom-node` that runs now, as the user can type it in any folder."""
    called = Path(sys.argv[0])
    beside = Path(sys.executable).parent / "dicom-node"
    if called.name == "dicom-node":
        return shlex.quote(os.path.abspath(called))
    return shlex.quote(str(beside)) if beside.is_file() else f"{shlex.quote(sys.executable)} -m dicom_node.cli.main"


def _toml(table: Mapping[str, Any]) -> str:
    """Write keys and values in TOML, where texts, numbers and lists of texts look as they do in JSON."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items() if value is not None]
    return "".join(lines)
