"""Each contract of import-linter is broken once, in a copy of the packages, by an import it forbids."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import PACKAGES, REPOSITORY

# The contract's id, the module that offends, and its offence.
OFFENCES = [
    ("packages", "storage/errors.py", "import inference.headers.attributes"),
    ("packages", "inference/headers/attributes.py", "import dicom_node.errors"),
    ("node", "dicom_node/receive/receiver.py", "import dicom_node.deliver.dispatcher"),
    ("node", "dicom_node/receive/receiver.py", "import dicom_node.route.routing"),
    ("node", "dicom_node/dimse/scu.py", "import dicom_node.objects.build"),
    ("node", "dicom_node/work/worker.py", "import dicom_node.settings.model"),
    ("inference", "inference/volumes/planes.py", "import inference.contract.findings"),
    ("errors", "inference/headers/attributes.py", "import storage.records.studies"),
    ("errors", "inference/headers/attributes.py", "import storage.log.headers.header"),
    (
        "applications",
        "inference/applications/segmentation/application.py",
        "import inference.applications.soft_tissue_mass.application",
    ),
    ("stack", "dicom_node/objects/build.py", "import torch"),
    ("stack", "dicom_node/read/stores.py", "import inference.volumes.registration"),
    ("network", "dicom_node/work/worker.py", "import pynetdicom"),
    ("sql", "dicom_node/read/stores.py", "import sqlalchemy"),
    ("screen", "dicom_node/read/stores.py", "import rich"),
    ("screen", "dicom_node/work/worker.py", "import typer"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def lint(tree: Path, contract: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--contract", contract]
    return subprocess.run(command, cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("contract", "module", "offence"), OFFENCES)
def test_an_offence_breaks_its_contract(tree: Path, contract: str, module: str, offence: str) -> None:
    path = tree / module
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n{offence}\n", encoding="utf-8")
    try:
        broken = lint(tree, contract)
    finally:
        path.write_text(text, encoding="utf-8")
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "Contracts: 0 kept, 1 broken." in broken.stdout
    kept = lint(tree, contract)
    assert kept.returncode == 0, kept.stdout


def test_every_contract_is_broken_once() -> None:
    contracts = [line.split('"')[1] for line in (REPOSITORY / "pyproject.toml").read_text().splitlines()
                 if line.startswith("id = ")]  # fmt: skip
    assert set(contracts) == {contract for contract, _, _ in OFFENCES}
