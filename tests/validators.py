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
# It knows no number that is missing for a stated reason (PS3.3 C.18.1, Measured Value Sequence of zero items).
PIXELMED_MISTAKES = re.compile(r"/NUM \([^)]*\): Missing value$")
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


def pixelmed_report_errors(path: Path, template: str = "") -> list[str]:
    """What PixelMed's DicomSRValidator calls an error: modules of the IOD, and the template. Takes up to a minute."""
    output = _pixelmed("DicomSRValidator", path)
    assert "IOD validation complete" in output, output[-2000:]
    assert f"Found Root Template {template}" in output, output[-2000:]
    return [line for line in output.splitlines() if line.startswith("Error") and not PIXELMED_MISTAKES.search(line)]


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


def plastimatch_masks(path: Path, images: Path, folder: Path) -> dict[str, Path]:
    """plastimatch's reading of an RTSTRUCT on the grid of the series in the folder `images`: one NIfTI per ROI name."""
    subprocess.run(
        [_program("plastimatch"), "convert", "--input", str(path), "--referenced-ct", str(images),
         "--output-prefix", str(folder), "--prefix-format", "nii.gz"],
        capture_output=True, check=True, timeout=300,
    )  # fmt: skip
    return {file.name.removesuffix(".nii.gz"): file for file in folder.glob("*.nii.gz")}


def dcmqi_map(path: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """dcmqi's reading of a Parametric Map: an image, and what it says of itself."""
    folder.mkdir()
    done = subprocess.run(
        [_program("paramap2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(folder)],
        capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return folder / "pmap.nrrd", json.loads((folder / "meta.json").read_text())


def dcmtk_frame(path: Path, frame: int, folder: Path) -> Path:
    """dcmtk's rendering of a frame, from 0, as a PNG."""
    picture = folder / f"frame-{frame}.png"
    command = [_program("dcm2pnm"), "--write-png", "--frame", str(frame + 1), str(path), str(picture)]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    return picture
