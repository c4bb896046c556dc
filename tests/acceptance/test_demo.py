"""The demo, which is what a new user sees first."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.demo.pacs.provisioning import find_orthanc
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import write_bundle


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    return subprocess.run(
        [sys.executable, "-m", "dicom_node.cli.main", "demo", "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={"PATH": "/usr/sbin:/usr/bin:/bin", "COLUMNS": "200"},
    )


def test_the_demo_shows_the_result_of_a_phantom(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Orthanc" in done.stdout
    for step in ("received", "complete", "routed", "queued", "running", "encoded", "delivered"):
        assert step in done.stdout
    assert done.stdout.count("storage committed") == 3  # SEG, ADC map, SR
    assert "warning" not in done.stdout
    assert "RESEARCH - not for diagnosis" in done.stdout
    assert re.search(r"Volume: [\d.]+ cm3", done.stdout)
    assert re.search(r"Long Axis: [\d.]+ mm", done.stdout, re.IGNORECASE)
    (picture,) = tmp_path.rglob("overlay.png")
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    coloured = (pixels.max(axis=2) - pixels.min(axis=2)) > 40
    half = pixels.shape[0] // 2
    assert coloured[half:].sum() > 3000  # the mass is painted in the lower row ...
    assert coloured[: half - 40].sum() == 0  # ... and the upper one is plain
    assert "PHANTOM" not in next(tmp_path.rglob("node.log")).read_text()


@pytest.mark.slow
def test_the_demo_runs_a_site_s_own_study_and_model(tmp_path: Path) -> None:
    write_ball_study(tmp_path / "study")
    config = tmp_path / "node.toml"
    config.write_text('[work]\ndevices = "cpu"\njob_timeout_seconds = 77\n')
    done = demo(
        tmp_path / "demo", "--study", str(tmp_path / "study"), "--bundle", str(write_bundle(tmp_path / "bundle")),
        "--config", str(config),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Bright ball" in done.stdout
    assert "job_timeout_seconds = 77.0" in next((tmp_path / "demo").rglob("node.toml")).read_text()


@pytest.mark.slow
def test_a_study_that_nothing_applies_to_ends_the_demo_with_the_way_out(tmp_path: Path, test_data: Path) -> None:
    done = demo(tmp_path, "--study", str(test_data / "malformed" / "geometry_sliceincrement_001"))
    assert done.returncode == 1
    assert "modality is CT, not MR" in done.stdout
    last = done.stdout.strip().splitlines()[-3:]
    assert last[0] == "No result: none of this study's series is one that soft_tissue_mass takes."
    assert "BUNDLE=<folder of the model>" in last[2]
    asked = subprocess.run(  # works as it is printed, in any folder
        shlex.split(last[1].split(maxsplit=1)[1]), capture_output=True, text=True, check=False, cwd="/", timeout=60
    )
    assert asked.returncode == 0, asked.stderr
    assert "1 slice(s) missing" in asked.stdout
