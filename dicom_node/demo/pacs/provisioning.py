"""Finding, installing or fetching an Orthanc on this machine."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dicom_node.demo.pacs.base import PacsKind, PacsUnavailable

IMAGE = "docker.io/orthancteam/orthanc"
INSTALL_SECONDS = 300.0
PULL_SECONDS = 600.0
_POLICY = Path("/usr/sbin/policy-rc.d")

Say = Callable[[str], None]


def find_orthanc() -> str | None:
    """Find the Orthanc program, also where only root's PATH has it, as on Debian."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


def install_orthanc(say: Say = lambda line: None) -> bool:
    """Install Debian's package if that needs no password. Its service is started neither now nor at boot."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say("Orthanc is not installed: installing the package `orthanc` with apt")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", "orthanc"]
    update = ["apt-get", "update", "--quiet=2"]
    with _no_services_start():
        for command in (install, update, install):  # the package lists may be missing, or name versions that are gone
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, check=False, timeout=INSTALL_SECONDS
                )
            except subprocess.TimeoutExpired:
                break
            if command is install and done.returncode == 0:
                break
        for command in (["update-rc.d", "orthanc", "disable"], ["deb-systemd-helper", "disable", "orthanc.service"]):
            with suppress(OSError):  # Debian has both commands, with or without systemd
                subprocess.run(command, capture_output=True, check=False)
    if not find_orthanc():
        say("apt could not install Orthanc")
        return False
    return True


@contextmanager
def _no_services_start() -> Iterator[None]:
    """Keep packages from starting services, by a policy-rc.d that exits with 101, unless there is a policy already."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def choose_pacs(wanted: PacsKind | None, folder: Path, say: Say) -> tuple[list[str] | None, PacsKind]:
    """Return the command that starts Orthanc, without its configuration file, or None for the plain SCP; and the kind.

    If no kind is `wanted`, Orthanc is installed first if that needs no password. Raises PacsUnavailable if the `wanted`
    kind is not available.
    """
    if wanted in (None, PacsKind.ORTHANC):
        program = find_orthanc()
        if program is None and wanted is None and install_orthanc(say):
            program = find_orthanc()
        if program is not None:
            return [program], PacsKind.ORTHANC
        if wanted is not None:
            raise PacsUnavailable("Orthanc is not installed (Debian, Ubuntu: apt install orthanc)")
    if wanted in (None, PacsKind.CONTAINER):
        command = _container(folder, say)
        if command is not None:
            return command, PacsKind.CONTAINER
        if wanted is not None:
            raise PacsUnavailable(f"neither docker nor podman can run {IMAGE} here")
    if wanted is None:
        say("There is no Orthanc here (Debian, Ubuntu: apt install orthanc): a plain storage SCP takes its place")
    return None, PacsKind.PLAIN


def _container(folder: Path, say: Say) -> list[str] | None:
    for engine in ("docker", "podman"):
        program = shutil.which(engine)
        if program is None:
            continue
        say(f"Orthanc is not installed: fetching {IMAGE} with {engine}")
        with suppress(subprocess.TimeoutExpired, OSError):
            pull = subprocess.run([program, "pull", IMAGE], capture_output=True, check=False, timeout=PULL_SECONDS)
            if pull.returncode == 0:
                # With the host's network, "only this machine" means the same as without a container. With the user's
                # own id, the files in the folder belong to the user.
                user = [] if engine == "podman" else ["--user", f"{os.getuid()}:{os.getgid()}"]
                mount = ["--volume", f"{folder}:{folder}", "--network", "host", "--entrypoint", "Orthanc"]
                return [program, "run", "--rm", "--init", *user, *mount, IMAGE]
        say(f"{engine} cannot fetch {IMAGE}")
    return None
