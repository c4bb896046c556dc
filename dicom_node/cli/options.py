"""Options and arguments that several commands share, and the settings, stores and records that they name."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.deliver.destinations.dimse import DimseSettings
from dicom_node.deliver.destinations.registry import destination_kind
from dicom_node.dimse.scu import Target
from dicom_node.read.stores import Stores, open_existing
from dicom_node.runtime.configuration import valid_ae_title
from dicom_node.settings.loading import find_config, load_settings
from dicom_node.settings.model import Settings
from storage.errors import NodeError, Permanent
from storage.records.studies import Stage, Study

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The TOML file. Default: $DICOM_NODE_CONFIG, ./node.toml, config/node.toml, "
        "/etc/dicom-node/node.toml, else built-in defaults."
    ),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyUID = Annotated[str, typer.Argument(help="Study Instance UID.")]
To = Annotated[
    str | None,
    typer.Option(help="AET@host:port, or the name of a configured destination. Default: this node."),
]
Calling = Annotated[str | None, typer.Option(help="The AE title of this side of the association.")]


def read_config(config: Path | None) -> tuple[Settings, Path | None]:
    """Return the settings and their file, which is the one that `--config` names, or the first one found."""
    path = config or find_config()
    return load_settings(path), path


def open_node(config: Path | None) -> tuple[Settings, Stores]:
    """Return the settings and the opened stores. Raises NodeError if the node has not run here before."""
    settings, path = read_config(config)
    return settings, open_existing(settings.stores, path)


def find_study(stores: Stores, uid: str) -> Study:
    """Return the study with this UID. Raises NodeError if the node does not have it."""
    found = stores.studies.get(uid)
    if found is None:
        for event in stores.studies.events(uid):
            if event.stage is Stage.DELETED:
                raise NodeError(f"The study {uid} was {event.text} ({event.at:%Y-%m-%d %H:%M} UTC)")
        raise NodeError(f"There is no study {uid} here; `dicom-node studies` lists those there are")
    return found


def refuse_other_user(settings: Settings) -> None:
    """Raise NodeError unless the data directory belongs to this user: the node could not change what others make."""
    owner = settings.node.data_dir.stat().st_uid
    if owner != os.geteuid():
        raise NodeError(f"Run this as the user who runs the node (number {owner}), who owns {settings.node.data_dir}")


def find_target(to: str | None, config: Path | None) -> Target:
    """Return the place that `--to` names: AET@host:port, a destination of the configuration, or this node itself.

    Raises Permanent for anything else.
    """
    settings, _ = read_config(config)
    if to is None:
        host = settings.receive.host
        return Target(settings.node.ae_title, "127.0.0.1" if host == "0.0.0.0" else host, settings.receive.port)  # noqa: S104
    for destination in settings.destinations:
        if destination.name == to:
            if not isinstance(destination, DimseSettings):
                raise Permanent(
                    f"{to!r} is a destination of kind {destination_kind(destination)!r}; "
                    "this command needs one of 'dimse'"
                )
            return Target(destination.ae_title, destination.host, destination.port)
    ae_title, at, address = to.partition("@")
    host, colon, port = address.rpartition(":")
    if not (ae_title and at and host and colon and port.isdigit()):
        names = ", ".join(d.name for d in settings.destinations) or "none"
        raise Permanent(f"{to!r} is neither AET@host:port nor the name of a destination; configured: {names}")
    if not 1 <= int(port) <= 65535:
        raise Permanent(f"{to!r}: {port} is no port; allowed: 1 to 65535")
    return Target(checked_ae_title(to, ae_title), host, int(port))


def checked_ae_title(what: str, value: str) -> str:
    """Return a valid AE title. Raises Permanent, naming `what` held it, for any other."""
    try:
        return valid_ae_title(value)
    except ValueError as error:
        raise Permanent(f"{what}: {value!r} is no AE title; {error}") from None
