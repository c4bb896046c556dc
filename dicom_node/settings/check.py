"""The check of a configuration on this machine: everything that it names must be usable."""

import os
import subprocess
import sys
from pathlib import Path

from dicom_node.catalogue import configured_applications
from dicom_node.errors import ConfigurationError
from dicom_node.settings.loading import Inspection
from storage.log.segments.holes import has_holes

WORKER_PROCESS = "dicom_node.work.process"  # a module path, never an import: that would load torch here
ALWAYS_HERE = ("auto", "cpu")  # settings of work.devices that need no look


def find_mistakes(inspection: Inspection) -> list[str]:
    """List every mistake in a configuration: values that are wrong, and named things that cannot be used."""
    found = list(inspection.mistakes)
    if inspection.data_dir is not None:
        found += _unusable_folder(inspection.data_dir)
    for destination in inspection.destinations:
        found += [f"destinations: {destination.name}: {problem}" for problem in destination.local_problems()]
    found += [
        f"applications: {application.name}: {application.problem}"
        for application in configured_applications([entry.entry for entry in inspection.applications])
        if application.manifest is None
    ]
    if inspection.devices not in (None, *ALWAYS_HERE):  # the answer takes seconds
        try:
            list_devices(str(inspection.devices))
        except ConfigurationError as error:
            found += error.mistakes
    return found


def find_notes(inspection: Inspection) -> list[str]:
    """List what is no mistake, but may surprise."""
    found = []
    if inspection.data_dir is not None and not _gives_space_back(inspection.data_dir):
        found.append(
            f"node.data_dir = '{inspection.data_dir}': its file system cannot give parts of files back. Deleting a "
            "study writes zeros over all its bytes, which takes as long as receiving them, and frees no space before "
            "everything else in the same files is deleted too"
        )
    return found + [
        f"{application.name}: it has neither `when` nor `body_parts`, so that it is meant only for studies that hold "
        "its inputs; no report says that another study has no result. Give it `when`, if silence would read as normal"
        for application in configured_applications([entry.entry for entry in inspection.applications])
        if application.manifest is not None and application.meant_only_where_bound
    ]


def list_devices(setting: str) -> list[str]:
    """List the devices that `work.devices` means, in a process of its own, because this needs torch.

    Raises ConfigurationError if a device does not exist.
    """
    listing = subprocess.run(
        [sys.executable, "-m", WORKER_PROCESS, "--list-devices", setting],
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        raise ConfigurationError([f"work.devices = {setting!r}: {listing.stderr.strip()}"])
    return listing.stdout.split()


def _gives_space_back(data_dir: Path) -> bool:
    try:
        return has_holes(_nearest(data_dir))
    except OSError:
        return True  # a folder that cannot be written is a mistake, and told as such


def _nearest(data_dir: Path) -> Path:
    return next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())


def _unusable_folder(data_dir: Path) -> list[str]:
    """List the reasons why the folder cannot be made or written, without making it."""
    nearest = _nearest(data_dir)
    key = f"node.data_dir = '{data_dir}'"
    if not nearest.is_dir():
        return [f"{key}: {nearest} is not a folder; name another one"]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [f"{key}: {nearest} cannot be written by this user; name another folder, or change its owner"]
    return []
