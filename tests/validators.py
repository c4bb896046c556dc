"""What third parties say of a result object. They exit 0 on errors, so their output is read."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Java's own limits are below what PixelMed's templates need, and so is its default heap.
JAVA_OPTIONS = ["-Xmx6g", *(f"-Djdk.xml.xpath{limit}=0" for limit in ("TotalOpLimit", "ExprOpLimit", "ExprGrpLimit"))]
SECONDS = 600


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed: run tests/install-peers.sh")
    return found


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=SECONDS, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    )
    return (done.stdout + done.stderr).decode(errors="replace")


def dciodvfy_errors(path: Path) -> list[str]:
    """The lines that dciodvfy calls an error; fails when it did not recognise the object at all."""
    output = _output([_program("dciodvfy"), str(path)])
    assert re.search(r"^[A-Z]\w+$", output, re.MULTILINE), output[-2000:]  # the name of the IOD, alone on its line
    return [line for line in output.splitlines() if line.startswith("Error")]


def dcmdump_errors(path: Path) -> list[str]:
    """What dcmtk cannot parse."""
    return _dcmtk("dcmdump", path, "# Dicom-Data-Set")


def dsrdump_errors(path: Path) -> list[str]:
    """What dcmtk refuses in a report: content items that are missing, relationships that are not allowed."""
    return _dcmtk("dsrdump", path, "<CONTAINER")


def _dcmtk(program: str, path: Path, beginning: str) -> list[str]:
    output = _output([_program(program), str(path)])
    errors = [line for line in output.splitlines() if re.match(r"[EF]: ", line)]
    assert errors or beginning in output, output[-2000:]
    return errors


def pixelmed_errors(path: Path) -> list[str]:
    """What PixelMed's DicomInstanceValidator calls an error: modules and attributes of the IOD."""
    output = _pixelmed("DicomInstanceValidator", path)
    assert "IOD validation complete" in output, output[-2000:]
    return [line for line in output.splitlines() if line.startswith("Error")]


def pixelmed_report_errors(path: Path) -> list[str]:
    """What PixelMed's DicomSRValidator calls an error: modules of the IOD, and the template. Takes up to a minute."""
    output = _pixelmed("DicomSRValidator", path)
    assert "IOD validation complete" in output, output[-2000:]
    assert "Found Root Template" in output, output[-2000:]
    return [line for line in output.splitlines() if line.startswith("Error")]


def _pixelmed(validator: str, path: Path) -> str:
    if not PIXELMED.is_file():
        pytest.skip("PixelMed is not installed: run tests/install-peers.sh pixelmed")
    return _output(
        [_program("java"), *JAVA_OPTIONS, "-cp", str(PIXELMED), f"com.pixelmed.validate.{validator}", str(path)]
    )


def dcmqi_segments(path: Path, folder: Path) -> dict[int, Path]:
    """dcmqi's reading of a SEG: one NIfTI per segment number."""
    folder.mkdir()
    output = _output(
        [_program("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(folder),
         "--outputType", "nii"],
    )  # fmt: skip
    files = {int(file.name.split(".")[0]): file for file in folder.glob("*.nii.gz")}
    assert files, output
    return files


def dcmqi_measurements(path: Path, folder: Path) -> list[dict[str, Any]]:
    """dcmqi's reading of a TID 1500 report: its measurement groups."""
    file = folder / f"{path.stem}.json"
    output = _output([_program("tid1500reader"), "--inputDICOM", str(path), "--outputMetadata", str(file)])
    assert file.is_file(), output
    groups: list[dict[str, Any]] = json.loads(file.read_text())["Measurements"]
    return groups
