"""`explain --config`: another configuration, tried on a study without running it."""

import json
from pathlib import Path

import pytest

from dicom_node.read.stores import open_stores
from dicom_node.settings.loading import load_settings
from tests.acceptance.studies import write_ball_study
from tests.commands import invoke
from tests.schedule.sweeps import Clock, push
from tests.storage.node import Node

CONFIG = """\
[node]
data_dir = "{data}"
[work]
devices = "cpu"
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
[[applications]]
id = "soft_tissue_mass"
destinations = ["pacs"]
{more}
"""


@pytest.fixture
def study(tmp_path: Path) -> str:
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(data=tmp_path / "data", more=""))
    stores = open_stores(load_settings(config).stores, upgrade=True)
    written = write_ball_study(tmp_path / "study")
    push(Node(stores.database, tmp_path / "data" / "instances"), Clock(), written.paths, "a", 20)
    stores.database.close()
    return written.study_instance_uid


def tried(tmp_path: Path, study: str, more: str) -> str:
    new = tmp_path / "new.toml"
    new.write_text(CONFIG.format(data=tmp_path / "data", more=more))
    shown = invoke(["explain", study, "--config", str(new)])
    assert shown.exit_code == 0, shown.output
    return " ".join(shown.output.split())


def test_another_configuration_is_tried_and_changes_nothing(tmp_path: Path, study: str) -> None:
    text = tried(tmp_path, study, "")
    assert f"Tried with {tmp_path / 'new.toml'}" in text
    assert "soft_tissue_mass (right) would run; t1w: 1 'T1 TSE axial'; it is meant for the study: series 1" in text
    text = tried(tmp_path, study, '[[series]]\nseries_description = "*"\nkind = "T2w"')
    assert "soft_tissue_mass would not run: no series fits" in text
    assert "once the study is over, a report says that there is no result, because it is meant for the study" in text
    text = tried(tmp_path, study, "when = { age = [150, 151] }")
    assert "its `when` excludes the study: the age" in text
    shown = invoke(["explain", study, "--json", "--config", str(tmp_path / "new.toml")])
    found = json.loads(shown.output)
    assert (found["state"], found["routing"], found["jobs"]) == ("RECEIVING", None, [])
    assert [a["meant"] for a in found["trial"]["applications"]] == [False]


def test_a_mistake_in_when_is_told(tmp_path: Path, study: str) -> None:
    for more, told in (
        ('when = { bodypart = "KNEE" }', "applications[0].when.bodypart: there is no such key"),
        ("when = {}", "names no study; give at least one of modality, body_part"),
        ("when = { age = [120, 18] }", "the lower age comes first"),
        ('when = { procedure_code = [{ value = "1" }] }', "applications[0].when.procedure_code[0].scheme: missing"),
    ):
        new = tmp_path / "new.toml"
        new.write_text(CONFIG.format(data=tmp_path / "data", more=more))
        shown = invoke(["check-config", "--config", str(new), "--json"])
        assert any(told in mistake for mistake in json.loads(shown.output)["mistakes"]), shown.output
