"""The units: what systemd itself says of them, and that those of all roles are alike."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "systemd"
ROLES = ("receive", "index", "schedule", "work", "dispatch")
SERVICES = ("dicom-node.service", *(f"dicom-node-{role}.service" for role in ROLES))
PROGRAM = "/opt/dicom-node/.venv/bin/dicom-node"
LARGEST_EXPOSURE = 2.5  # of 10; systemd calls what is below 5 medium, and below 2 good
DEVICES = {"PrivateDevices", "DevicePolicy", "DeviceAllow"}

Unit = dict[str, list[str]]  # "Section.Key" -> values, in order


def parse(name: str) -> Unit:
    unit: Unit = {}
    section = ""
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            unit.setdefault(f"{section}.{key}", []).append(value)
    return unit


def one(unit: Unit, key: str) -> str:
    (value,) = unit[key]
    return value


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with a program in them that exists: `verify` asks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    for path in FOLDER.glob("dicom-node*.*"):
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, sys.executable))
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def test_systemd_finds_nothing_to_complain_of(installed: Path) -> None:
    done = analyze("verify", "--man=no", *map(str, sorted(installed.iterdir())))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_little_is_exposed(installed: Path, name: str) -> None:
    if "--offline" not in analyze("--help").stdout:
        pytest.skip("this systemd-analyze has no --offline")
    threshold = f"--threshold={LARGEST_EXPOSURE * 10:.0f}"
    done = analyze("security", "--no-pager", "--offline=true", threshold, str(installed / name))
    assert done.returncode == 0, done.stdout


def test_the_user_can_be_created() -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not here")
    path = FOLDER / "sysusers.d" / "dicom-node.conf"
    done = subprocess.run(["systemd-sysusers", "--dry-run", str(path)], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "ignoring" in done.stderr) == (0, False)
    assert re.search(r"^u dicom-node ", path.read_text(), re.MULTILINE)


def test_there_is_a_unit_for_each_way_to_start() -> None:
    assert {p.name for p in FOLDER.glob("*.service")} == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_starts_its_role(name: str) -> None:
    role = name.removeprefix("dicom-node").removesuffix(".service").lstrip("-") or "run"
    unit = parse(name)
    assert one(unit, "Service.ExecStart") == f"{PROGRAM} {role} --config /etc/dicom-node/node.toml"
    assert one(unit, "Service.User") == "dicom-node"
    assert one(unit, "Service.Type") == "notify"
    assert "Service.WatchdogSec" in unit
    assert one(unit, "Unit.PartOf") == one(unit, "Install.WantedBy") == "dicom-node.target"
    assert one(unit, "Service.Environment") == "DICOM_NODE__NODE__DATA_DIR=/var/lib/dicom-node"


def test_all_roles_in_one_exclude_single_roles() -> None:
    single = [f"dicom-node-{role}.service" for role in ROLES]
    assert one(parse("dicom-node.service"), "Unit.Conflicts").split() == single
    assert {one(parse(name), "Unit.Conflicts") for name in single} == {"dicom-node.service"}


def test_hardening_is_the_same_everywhere() -> None:
    hardening = {}
    for name in SERVICES:
        text = (FOLDER / name).read_text()
        lines = text[text.index("# Hardening") : text.index("[Install]")].splitlines()
        hardening[name] = [
            li for li in lines if "=" in li and not li.startswith("#") and li.split("=")[0] not in DEVICES
        ]
    first = hardening["dicom-node.service"]
    assert len(first) > 20
    assert all(lines == first for lines in hardening.values())


def test_only_models_see_devices() -> None:
    private = {name: one(parse(name), "Service.PrivateDevices") for name in SERVICES}
    assert {name for name, value in private.items() if value == "no"} == {
        "dicom-node.service",
        "dicom-node-work.service",
    }
