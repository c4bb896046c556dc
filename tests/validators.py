"""What third parties say of a result object. They exit 0 on errors, so their output is read."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

IOD_NAMES = re.compile(r"^[A-Z]\w+$", re.MULTILINE)  # alone on its line


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed: run tests/install-peers.sh")
    return found


def dciodvfy_errors(path: Path) -> list[str]:
    """The lines that dciodvfy calls an error; fails when it did not recognise the object at all."""
    done = subprocess.run(
        [_program("dciodvfy"), str(path)],
        capture_output=True, text=True, errors="replace", check=False, timeout=120,  # it prints names as they are
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert IOD_NAMES.search(output), output[-2000:]
    return [line for line in output.splitlines() if line.startswith("Error")]


def dsrdump_errors(path: Path) -> list[str]:
    """The lines that dcmtk's dsrdump calls an error: relationships that the SOP class does not allow among them."""
    done = subprocess.run(
        [_program("dsrdump"), str(path)], capture_output=True, text=True, errors="replace", check=False, timeout=120
    )
    return [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


def dcmqi_segments(path: Path, folder: Path) -> dict[int, Path]:
    """dcmqi's reading of a SEG: one NIfTI per segment number."""
    folder.mkdir()
    done = subprocess.run(
        [_program("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(folder),
         "--outputType", "nii"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    files = {int(file.name.split(".")[0]): file for file in folder.glob("*.nii.gz")}
    assert files, done.stdout + done.stderr
    return files


def dcmqi_measurements(path: Path, folder: Path) -> list[dict[str, Any]]:
    """dcmqi's reading of a TID 1500 report: its measurement groups."""
    output = folder / f"{path.stem}.json"
    done = subprocess.run(
        [_program("tid1500reader"), "--inputDICOM", str(path), "--outputMetadata", str(output)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert output.is_file(), done.stdout + done.stderr
    groups: list[dict[str, Any]] = json.loads(output.read_text())["Measurements"]
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


PIXELMED = Path("/usr/share/java/pixelmed.jar")
# It knows no number that is missing for a stated reason (PS3.3 C.18.1, Measured Value Sequence of zero items).
PIXELMED_MISTAKES = re.compile(r"/NUM \([^)]*\): Missing value$")


def pixelmed_sr_errors(path: Path, template: str) -> list[str]:
    """The lines that PixelMed's validator of SR templates calls an error; fails when it did not find `template`."""
    if not PIXELMED.is_file():
        pytest.skip("PixelMed is not installed: Debian package libpixelmed-java")
    program = "com.pixelmed.validate.DicomSRValidator"
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]
    done = subprocess.run(
        [_program("java"), "-Xmx6g", *limits, "-cp", str(PIXELMED), program, str(path)],
        capture_output=True, text=True, errors="replace", check=False, timeout=600,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert f"Found Root Template {template} " in output, output[-2000:]
    assert "Root Template Validation Complete" in output, output[-2000:]
    return [line for line in output.splitlines() if line.startswith("Error") and not PIXELMED_MISTAKES.search(line)]
