"""Bad input gets a message that names the thing and the way out; nothing is lost and nothing hangs."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.demo.pacs.base import Pacs
from dicom_node.demo.pacs.ports import free_port
from dicom_node.dimse.scu import find_files, send_echo, send_files
from storage.blobs import file_blobs
from tests.acceptance.node import SCANNER, Node, delivered
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import write_bundle
from tests.validators import dciodvfy_errors


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]]) -> tuple[Node, Pacs]:
    return make_node()


def ignored(detail: dict[str, Any]) -> bool:
    return bool(detail["state"] == "IGNORED")


def reports(pacs: Pacs, uid: str) -> list[Dataset]:
    """The structured reports that the PACS holds of a study, in the order of their making."""
    held = [pacs.dataset(i.sop_instance_uid) for i in pacs.instances(uid) if i.modality == "SR"]
    return sorted(held, key=lambda ds: "PredecessorDocumentsSequence" in ds)


def predecessors(report: Dataset) -> set[str]:
    return {
        str(sop.ReferencedSOPInstanceUID)
        for study in report.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }


def text_of(ds: Dataset) -> str:
    return " ".join(str(item.TextValue) for item in ds.ContentSequence if item.ValueType == "TEXT")


def send_series(node: Node, folder: Path) -> str:
    """Sends every file; returns the study's UID."""
    from pydicom import dcmread

    files = find_files([folder])
    assert all(r.ok for r in send_files(file_blobs(files), SCANNER, node.target))
    return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


@pytest.mark.parametrize(
    ("folder", "reasons"),
    [
        ("malformed/geometry_sliceincrement_001",
         ("modality is CT, not MR", "1 slice(s) missing: distances from 5.00 to 10.00 mm",
          "send the missing slices again")),
        ("malformed/geometry_sliceorientation_001",
         ("not T1w", "its images differ in orientation", "send a series whose slices are parallel")),
        ("malformed/geometry_slicecount_001", ("not T1w", "only 2 slices", "send the missing slices again")),
        ("mr/siemens_xa30_study/8_gre_field_mapping", ("is field map, not T1w (of the field mapping sequence",)),
        ("mr/philips_elition_rawdata_nonimage", ("holds no image",)),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_used_says_why(
    place: tuple[Node, Pacs], test_data: Path, tmp_path: Path, folder: str, reasons: tuple[str, ...]
) -> None:
    node, pacs = place
    uid = send_series(node, test_data / folder)
    detail = node.wait(uid, ignored)
    assert "nothing applies" in detail["reason"]
    assert [reason for reason in reasons if reason not in detail["reason"]] == []
    assert len(detail["instances"]) == len(find_files([test_data / folder]))
    if "nonimage" in folder:
        assert detail["jobs"] == []
        return
    detail = node.wait(uid, delivered())
    (report,) = reports(pacs, uid)
    assert [reason for reason in reasons if reason not in text_of(report)] == []
    report.save_as(tmp_path / "sr.dcm")
    of_the_patient = dciodvfy_errors(find_files([test_data / folder])[0])  # copied as they are
    assert [error for error in dciodvfy_errors(tmp_path / "sr.dcm") if error not in of_the_patient] == []


def test_broken_geometry_is_named(place: tuple[Node, Pacs], tmp_path: Path) -> None:
    node, pacs = place
    study = write_ball_study(tmp_path)
    study.series["t1w"].paths[7].unlink()
    uid = send_series(node, tmp_path)
    detail = node.wait(uid, ignored)
    told = (
        "1 slice(s) missing: distances from 4.00 to 8.00 mm, the first gap between image 7 and image 9; "
        "send the missing slices again"
    )
    assert told in detail["reason"]
    node.wait(uid, delivered())
    (report,) = reports(pacs, uid)
    assert told in text_of(report)
    assert "PHANTOM" in str(report.PatientName)
    (listed,) = node.command("jobs", "--study", uid)
    assert (listed["kind"], listed["state"], listed["detail"]["why"]) == ("NO_RESULT", "SUCCEEDED", "unusable-images")
    assert "no AI result (unusable-images)" in " ".join(node.run("explain", uid).stdout.split())
    assert "PHANTOM" not in node.log.read_text()
    send_series(node, tmp_path)  # the same study again makes no second report
    assert node.run("retry", "--study", uid).returncode == 0
    detail = node.wait(uid, ignored)
    assert [j["kind"] for j in detail["jobs"]] == ["NO_RESULT"]


def test_port_scans_do_no_harm(place: tuple[Node, Pacs]) -> None:
    node, _ = place
    for garbage in (b"", b"GET / HTTP/1.0\r\n\r\n", bytes(range(256)) * 40, b"\x01\x00\xff\xff\xff\xff"):
        with socket.create_connection((node.target.host, node.target.port), timeout=5) as connection:
            connection.sendall(garbage)
    assert send_echo(SCANNER, node.target).ok


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": ""},
        umask=0,
    )


def check(config: Path) -> subprocess.CompletedProcess[str]:
    return command("check-config", "--config", config)


def test_every_mistake_in_the_configuration_is_told_at_once(tmp_path: Path) -> None:
    """Form, names, model folders, devices, folders: none hides another."""
    (tmp_path / "file").write_text("")
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "bundle.toml").write_text((bundle / "bundle.toml").read_text().replace("slices = 5", 'slices = "five"'))
    config = tmp_path / "node.toml"
    config.write_text(
        '[node]\nae_titel = "X"\ndata_dir = "file/data"\n[receive]\nport = 99999\n[work]\ndevices = "gpu0"\n'
        '[[destinations]]\nname = "pacs"\nkind = "dimze"\nae_title = "P"\nhost = "h"\nport = 104\n'
        '[[destinations]]\nname = "pacs"\nae_title = "P"\nhost = "h"\nport = 104\n'
        '[[applications]]\nid = "soft_tissue_mas"\ndestinations = ["pacs"]\n'
        '[[applications]]\nid = "segmentation"\nname = "a"\nbundle = "none"\ndestinations = ["pasc"]\n'
        '[[applications]]\nid = "segmentation"\nname = "b"\nbundle = "bundle"\ndestinations = ["pacs"]\n'
    )
    told = (
        "node.ae_titel: there is no such key",
        "did you mean 'ae_title'?",
        "receive.port = 99999",
        "did you mean 'dimse'?",
        "the name 'pacs' is used 2 times",
        "did you mean 'soft_tissue_mass'?",
        "no [[destinations]] has this name; allowed: pacs; did you mean 'pacs'?",
        f"a: the model folder {tmp_path / 'none'} does not exist",
        "input.minimum_slices = 'five': must be a whole number",
        "work.devices = 'gpu0': gpu0 is not here; allowed: auto, cpu",
        f"{tmp_path / 'file'} is not a folder",
    )
    done = check(config)
    assert done.returncode == 2
    assert [mistake for mistake in told if mistake not in done.stderr] == []
    assert "Traceback" not in done.stderr
    as_json = command("check-config", "--json", "--config", config)
    assert as_json.returncode == 2
    mistakes = "\n".join(json.loads(as_json.stdout)["mistakes"])
    assert [mistake for mistake in told if mistake not in mistakes] == []


@pytest.mark.parametrize("text", ["[node", "[completion]\nquiet_seconds = nan\n"])
def test_mistakes_are_json_too(tmp_path: Path, text: str) -> None:
    config = tmp_path / "node.toml"
    config.write_text(text)
    done = command("check-config", "--json", "--config", config)
    assert done.returncode == 2
    assert len(json.loads(done.stdout)["mistakes"]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("echo", "A_TITLE_OF_MORE_THAN_16@h:104"), "an AE title has 1 to 16"),
        (("echo", "--calling", "A_TITLE_OF_MORE_THAN_16", "A@h:104"), "an AE title has 1 to 16"),
        (("simulate", "--to", "PACS@h:70000"), "70000 is no port; allowed: 1 to 65535"),
        (("send", "{empty}", "--to", "PACS@h:104"), "There is no file in"),
        (("demo", "--study", "nowhere"), "--study nowhere: there is no such folder"),
        (("demo", "--bundle", "nowhere"), "nowhere does not exist"),
        (("demo", "--bundle", "{empty}"), "bundle.toml cannot be read"),
        (("schedule", "--config", "{config}"), "node.data_dir"),
        (("receive", "--config", "{config}"), "node.data_dir"),
    ],
)
def test_what_cannot_be_done_is_one_message(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    config, empty = tmp_path / "node.toml", tmp_path / "empty"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}/node.toml/data"\n[receive]\nport = {free_port()}\n')
    empty.mkdir()
    done = command(*(a.format(empty=empty, config=config) for a in arguments))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("asked", [("studies", "--json"), ("study", "1.2"), ("explain", "1.2"), ("jobs",), ("retry",)])
def test_asking_a_node_that_never_ran_makes_nothing(tmp_path: Path, asked: tuple[str, ...]) -> None:
    config = tmp_path / "node.toml"
    config.write_text("")
    done = command(*asked, "--config", config)
    assert done.returncode == 1
    assert f"There is no database yet: {tmp_path / 'data' / 'node.sqlite'}" in done.stderr
    assert list(tmp_path.iterdir()) == [config]


def test_a_new_node_is_closed_to_others_and_names_what_it_does_not_know(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("")
    assert command("db", "upgrade", "--config", config).returncode == 0
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "data" / "node.sqlite").stat().st_mode & 0o777 == 0o640
    for asked, told in (
        (("retry", "--job", "9"), "There is no job 9"),
        (("retry", "--delivery", "9"), "There is no delivery 9"),
        (("retry", "--study", "1.2"), "There is no study 1.2"),
        (("jobs", "--study", "1.2"), "There is no study 1.2"),
        (("withdraw", "9"), "There is no job 9"),
        (("retry",), "Nothing to queue again"),
    ):
        done = command(*asked, "--config", config)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr


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


@pytest.mark.slow
def test_a_broken_model_folder_loses_no_study(make_node: Callable[..., tuple[Node, Pacs]], tmp_path: Path) -> None:
    """An application works, the other one's folder is broken: told in log, reason and timeline; repaired, it runs."""
    node, pacs = make_node()
    node.stop()
    text = node.config.read_text()
    other = (
        f'[[applications]]\nid = "segmentation"\nname = "other"\nbundle = "{tmp_path / "other"}"\n'
        'no_result = "always"\ndestinations = ["pacs"]\n'
    )
    node.config.write_text(text + other)
    node.start()
    write_ball_study(tmp_path / "study", seed=7)
    uid = send_series(node, tmp_path / "study")
    detail = node.wait(uid, delivered())
    told = f"not run: other: the model folder {tmp_path / 'other'} does not exist"
    assert detail["reason"].startswith("applies: model; " + told)
    assert next(e["text"] for e in detail["timeline"] if e["stage"] == "warning").startswith(told)
    node.wait(uid, lambda d: [o["kind"] for o in d["objects"]] == ["SEG", "SR", "SR"] and delivered()(d))
    assert f"the model folder {tmp_path / 'other'} does not exist" in " ".join(map(text_of, reports(pacs, uid)))
    assert "ERROR" in next(line for line in node.log.read_text().splitlines() if "Application other cannot be" in line)

    write_bundle(tmp_path / "other")  # the way out: a good model, a restart, `retry`
    node.stop()
    node.start()
    done = command("retry", "--study", uid, "--config", node.config)
    assert done.returncode == 0
    assert f"study {uid}: routed again" in done.stdout
    kinds = ["SEG", "SR", "SR", "SEG", "SR", "REJECTION"]  # the last takes the report of no result back
    detail = node.wait(uid, lambda d: [o["kind"] for o in d["objects"]] == kinds and delivered()(d))
    assert [(j["application"], j["kind"], j["state"], j["revision"]) for j in detail["jobs"]] == [
        ("model", "ANALYSIS", "SUCCEEDED", 1),
        ("other", "NO_RESULT", "SUCCEEDED", 1),
        ("other", "ANALYSIS", "SUCCEEDED", 1),
        ("other", "NO_RESULT", "SUCCEEDED", 1),
    ]
    assert predecessors(reports(pacs, uid)[-1]) == {detail["objects"][2]["sop_instance_uid"]}
    assert detail["reason"] == "applies: model, other"


@pytest.mark.slow
def test_weights_that_are_no_model_fail_the_job_and_say_so(
    make_node: Callable[..., tuple[Node, Pacs]], tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "model.ts").write_bytes(b"not a model")
    node, pacs = make_node(bundle=bundle)
    write_ball_study(tmp_path / "study")
    uid = send_series(node, tmp_path / "study")
    detail = node.wait(uid, lambda d: any(j["state"] == "FAILED" for j in d["jobs"]))
    assert "model.ts cannot be loaded as a model" in detail["jobs"][0]["reason"]
    node.wait(uid, delivered())
    (report,) = reports(pacs, uid)
    assert "model.ts cannot be loaded as a model" in text_of(report)

    write_bundle(bundle)  # the way out: a good model, a restart, `retry`
    node.stop()
    node.start()
    done = command("retry", "--study", uid, "--config", node.config)
    assert f"job {detail['jobs'][0]['id']} (model (right), study {uid}): QUEUED" in done.stdout
    node.wait(uid, lambda d: [o["kind"] for o in d["objects"]] == ["SR", "SEG", "SR"] and delivered()(d))
    assert predecessors(reports(pacs, uid)[-1]) == {str(report.SOPInstanceUID)}
