"""Bad input gets a message that names the thing and the way out; nothing is lost and nothing hangs."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_node.demo_pacs import Pacs
from dicom_node.scu import echo, find_files, send_files
from tests.acceptance.node import SCANNER, Node, delivered
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import write_bundle


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]]) -> tuple[Node, Pacs]:
    return make_node()


def ignored(detail: dict[str, Any]) -> bool:
    return bool(detail["state"] == "IGNORED")


def send_series(node: Node, folder: Path) -> str:
    """Sends every file; returns the study's UID."""
    from pydicom import dcmread

    files = find_files([folder])
    assert all(r.ok for r in send_files(files, SCANNER, node.target))
    return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("malformed/geometry_sliceincrement_001", "modality is CT, not MR"),
        ("malformed/geometry_sliceorientation_001", "not T1w"),
        ("malformed/geometry_slicecount_001", "not T1w"),
        ("mr/siemens_xa30_study/8_gre_field_mapping", "cannot be used: holds 2 volumes: EchoTime 10, 12.46"),
        ("mr/philips_elition_rawdata_nonimage", "is not an image"),
    ],
)
def test_a_study_that_cannot_be_used_says_why(
    place: tuple[Node, Pacs], test_data: Path, folder: str, reason: str
) -> None:
    node, _ = place
    uid = send_series(node, test_data / folder)
    detail = node.wait(uid, ignored)
    assert "nothing applies" in detail["reason"]
    assert reason in detail["reason"]
    assert len(detail["instances"]) == len(find_files([test_data / folder]))


def test_broken_geometry_is_named(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, _ = place
    study = write_ball_study(tmp_path)
    study.series["t1w"].paths[7].unlink()
    uid = send_series(node, tmp_path)
    detail = node.wait(uid, ignored)
    assert "1 slice(s) missing: distances from 4.00 to 8.00 mm" in detail["reason"]


def test_port_scans_do_no_harm(place: tuple[Node, Pacs]) -> None:
    node, _ = place
    for garbage in (b"", b"GET / HTTP/1.0\r\n\r\n", bytes(range(256)) * 40, b"\x01\x00\xff\xff\xff\xff"):
        with socket.create_connection((node.target.host, node.target.port), timeout=5) as connection:
            connection.sendall(garbage)
    assert echo(SCANNER, node.target).ok


def check(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node.cli", "check-config", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "", "COLUMNS": "300"},
    )


def test_every_mistake_in_the_configuration_is_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        '[node]\nae_titel = "X"\n[receive]\nport = 99999\n[[destinations]]\nname = "pacs"\nkind = "dimze"\n'
        'ae_title = "P"\nhost = "h"\nport = 104\n'
    )
    done = check(config)
    assert done.returncode == 2
    assert "node.ae_titel: there is no such key" in done.stderr
    assert "did you mean 'ae_title'?" in done.stderr
    assert "receive.port = 99999" in done.stderr
    assert "did you mean 'dimse'?" in done.stderr


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda b: (b / "bundle.toml").unlink(), "bundle.toml cannot be read"),
        (lambda b: (b / "model.ts").unlink(), "there is no such file in the folder"),
        (lambda b: (b / "bundle.toml").write_text((b / "bundle.toml").read_text().replace("spacing", "spacin")),
         "did you mean 'spacing'?"),
    ],
)  # fmt: skip
def test_a_model_folder_that_cannot_be_used(tmp_path: Path, damage: Callable[[Path], object], told: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    damage(bundle)
    config = tmp_path / "node.toml"
    config.write_text(
        '[[destinations]]\nname = "pacs"\nae_title = "P"\nhost = "h"\nport = 104\n'
        '[[applications]]\nid = "segmentation"\nname = "brain"\nbundle = "bundle"\ndestinations = ["pacs"]\n'
    )
    done = check(config)
    assert done.returncode == 2
    assert "brain" in done.stderr
    assert told in done.stderr


def test_weights_that_are_no_model_fail_the_job_and_say_so(
    make_node: Callable[..., tuple[Node, Pacs]], tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "model.ts").write_bytes(b"not a model")
    node, _ = make_node(bundle=bundle)
    write_ball_study(tmp_path / "study")
    uid = send_series(node, tmp_path / "study")
    detail = node.wait(uid, lambda d: any(j["state"] == "FAILED" for j in d["jobs"]))
    assert "model.ts cannot be loaded as a model" in detail["jobs"][0]["reason"]

    repaired = write_bundle(bundle)  # the way out: a good model, a restart, `retry`
    assert repaired == bundle
    node.stop()
    node.start()
    subprocess.run(
        [sys.executable, "-m", "dicom_node.cli", "retry", "--study", uid, "--config", str(node.config)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    node.wait(uid, delivered())
