"""Patients of a trial, sent as a scanner sends them: headers tell the truth, and the truth is told beside them."""

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.demo.simulator import limb_study
from dicom_node.receive.policy import ReceivePolicy
from dicom_node.receive.receiver import Receiver
from inference.phantoms.limb.images import DWI_B_VALUES
from inference.phantoms.limb.study import limb_study as phantom
from inference.volumes.measurements import volume_ml
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from tests.commands import invoke
from tests.demo.simulator.test_phantom_study import DCIODVFY
from tests.receive.kept import KeptJournal

SEED = 8
SERIES = {"t1w", "t2w_fs", "dwi", "adc", "t1_map", "t2_map", "water", "fat", "t1w_fs_post"}


Sent = tuple[dict[str, dict[str, list[Dataset]]], dict[str, Any]]


@pytest.fixture(scope="module")
def coarse() -> Iterator[None]:
    """Every series on a grid that takes no time."""
    small = tuple((names, (16, 64, 64), (10.0, 3.45, 3.45)) for names, *_ in limb_study.MATRICES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limb_study, "MATRICES", small)
        yield


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory, coarse: None) -> Sent:
    """Return what `simulate` sent, by study and series, and the truth it wrote."""
    tmp_path = tmp_path_factory.mktemp("sent")
    journal = KeptJournal(tmp_path / "journal")
    receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", 0), journal, journal.key, "receive-0")
    receiver.start()
    try:
        done = invoke(
            [
                "simulate", "--phantom", "limb", "--patients", "2", "--timepoints", "2", "--seed", str(SEED),
                "--to", f"NODE@127.0.0.1:{receiver.port}", "--truth", str(tmp_path / "truth.json"),
            ],
        )  # fmt: skip
    finally:
        receiver.stop(grace=1)
    assert done.exit_code == 0, done.output
    truth = json.loads((tmp_path / "truth.json").read_text())
    found: dict[str, dict[str, list[Dataset]]] = defaultdict(lambda: defaultdict(list))
    for kept in journal.kept:
        ds = dcmread(BytesIO(kept.file))
        names = {uid: name for name, uid in truth[ds.StudyInstanceUID]["series"].items()}
        found[ds.StudyInstanceUID][names[ds.SeriesInstanceUID]].append(ds)
    return found, truth


def test_patients_come_with_their_time_points_and_truth(sent: Sent) -> None:
    studies, truth = sent
    assert set(studies) == set(truth)
    assert all(set(series) == SERIES for series in studies.values())
    assert [(v["seed"], v["time_point"]) for v in truth.values()] == [(8, 0), (8, 1), (9, 0), (9, 1)]
    for first, second in zip(list(truth)[::2], list(truth)[1::2], strict=True):
        before, after = (studies[uid]["t1w"][0] for uid in (first, second))
        assert before.PatientID == after.PatientID == f"PHANTOM-{truth[first]['seed']}"
        assert before.FrameOfReferenceUID != after.FrameOfReferenceUID
        dates = [datetime.strptime(ds.StudyDate, "%Y%m%d") for ds in (before, after)]
        assert (dates[1] - dates[0]).days == 56
        assert truth[first]["response"] is None
        assert truth[second]["response"] in ("PR", "SD", "PD")
    assert len({study["t1w"][0].PatientID for study in studies.values()}) == 2
    last = list(truth.values())[-1]
    expected = phantom(last["seed"], last["time_point"]).truth.plain()
    assert {name: last[name] for name in expected} == expected


def test_headers_tell_the_physics(sent: Sent) -> None:
    studies, _ = sent
    series = next(iter(studies.values()))
    one = {name: instances[0] for name, instances in series.items()}
    assert {ds.BodyPartExamined for ds in one.values()} == {"THIGH"}
    assert {name for name, ds in one.items() if ds.ScanOptions == "FS"} == {"t2w_fs", "dwi", "adc", "t1w_fs_post"}
    assert {name for name, ds in one.items() if ds.get("ContrastBolusAgent")} == {"t1w_fs_post"}
    assert {name: (ds.RepetitionTime, ds.EchoTime, ds.FlipAngle) for name, ds in one.items()} == {
        "t1w": (600, 12, 90), "t1w_fs_post": (600, 12, 90), "t2w_fs": (4000, 80, 90), "dwi": (5000, 70, 90),
        "adc": (5000, 70, 90), "t1_map": (15, 2.5, 4), "t2_map": (3000, 12, 90), "water": (8, 2.5, 3),
        "fat": (8, 2.5, 3),
    }  # fmt: skip
    assert {float(ds.DiffusionBValue) for ds in series["dwi"]} == set(DWI_B_VALUES)
    assert [one[name].ImageType[-1] for name in ("adc", "water", "fat")] == ["ADC", "W", "F"]
    assert [one[name].ImageType[2] for name in ("t1_map", "t2_map")] == ["T1 MAP", "T2 MAP"]
    for name, unit in (("adc", "um2/s"), ("t1_map", "ms"), ("t2_map", "ms")):
        mapping = one[name].RealWorldValueMappingSequence[0]
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == one[name].RescaleType == unit


def test_scales_do_not_depend_on_the_mass(sent: Sent) -> None:
    """A window or a scale set by the brightest voxel would tell of the mass outside of it."""
    studies, _ = sent
    for name in SERIES:
        windows = {(ds.WindowCenter, ds.WindowWidth) for study in studies.values() for ds in study[name]}
        assert len(windows) == 1, name


def test_what_is_written_is_the_phantom(tmp_path: Path, coarse: None) -> None:
    """Volumes read back lie where the masks say: the mass's values in the maps, its volume from the written mask."""
    ((written, truth),) = limb_study.write_limb_patient(tmp_path, SEED, 1)
    for name, expected in (("adc", truth["adc"]), ("t1_map", truth["t1"]), ("t2_map", truth["t2"])):
        volume = read_volume(file_blobs(written.series[name].paths))
        assert volume.array[written.mask].mean() == pytest.approx(expected, rel=0.1), name
    volume = read_volume(file_blobs(written.series["t1w"].paths))
    assert np.allclose(volume.geometry.affine, written.affine, atol=1e-5)
    assert volume_ml(written.mask, volume.geometry) == pytest.approx(truth["volume_ml"], rel=0.1)


@pytest.mark.skipif(not DCIODVFY.exists(), reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_every_series_conforms(tmp_path: Path, coarse: None) -> None:
    ((written, _),) = limb_study.write_limb_patient(tmp_path, SEED, 1)
    for name, series in written.series.items():
        done = subprocess.run([DCIODVFY, "-new", series.paths[0]], capture_output=True, text=True, check=False)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        assert not errors, (name, errors)


def test_the_truth_is_of_phantoms_only(tmp_path: Path) -> None:
    done = invoke(["simulate", str(tmp_path), "--truth", str(tmp_path / "truth.json")])
    assert done.exit_code != 0
    assert "name no folder" in str(done.exception)
