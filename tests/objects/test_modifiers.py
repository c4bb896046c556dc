"""Left and right of one structure, from `bundle.toml` to the codes that other programs read."""

import json
from pathlib import Path

import highdicom as hd
import pytest
import torch
from torch import Tensor, nn

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import build_objects
from inference.contract.manifest import load_manifest
from storage.errors import ModelRefused
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import BUNDLE, run_bundle
from tests.validators import dciodvfy_errors, dcmqi_measurements, dcmqi_segments

FEMUR = '["71341001", "SCT", "Femur"]'
LEFT, RIGHT = ("7771000", "SCT", "Left"), ("24028007", "SCT", "Right")
UPPER = ("261183002", "SCT", "Upper")
LABEL = """
[[labels]]
value = {value}
name = "{name}"
type = {type}
modifier = {modifier}
color = [220, 40, 40]
"""


class _Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x - 0.5, x - 0.5, x - 0.5], 1)


def write_femurs(folder: Path, *modifiers: tuple[str, ...]) -> Path:
    folder.mkdir()
    torch.jit.script(_Same()).save(str(folder / "model.ts"))
    text = BUNDLE[: BUNDLE.index("[[labels]]")].replace("[preprocessing]", 'output = "sigmoid"\n[preprocessing]', 1)
    for value, modifier in enumerate(modifiers):
        text += LABEL.format(value=value, name=f"Femur {value}", type=FEMUR, modifier=list(modifier))
    (folder / "bundle.toml").write_text(text)
    return folder


def test_left_and_right_have_codes_of_their_own(tmp_path: Path) -> None:
    bundle = write_femurs(tmp_path / "bundle", LEFT, RIGHT, UPPER)
    study = write_ball_study(tmp_path / "study")
    built = build_objects(run_bundle(bundle, tuple(study.paths)), ObjectContext("NODE", "seed"))
    for one in built:
        one.dataset.save_as(tmp_path / f"{one.kind}.dcm", enforce_file_format=True)
        assert dciodvfy_errors(tmp_path / f"{one.kind}.dcm") == []

    seg = hd.seg.segread(tmp_path / "SEG.dcm")
    types = [d.SegmentedPropertyTypeCodeSequence[0] for d in seg.SegmentSequence]
    assert {t.CodeValue for t in types} == {"71341001"}
    modifiers = [t.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue for t in types]
    assert modifiers == [LEFT[0], RIGHT[0], UPPER[0]]
    dcmqi_segments(tmp_path / "SEG.dcm", tmp_path / "dcmqi")
    (told,) = (tmp_path / "dcmqi").glob("*.json")
    segments = [s for group in json.loads(told.read_text())["segmentAttributes"] for s in group]
    read = {s["labelID"]: s["SegmentedPropertyTypeModifierCodeSequence"]["CodeValue"] for s in segments}
    assert list(dict(sorted(read.items())).values()) == [LEFT[0], RIGHT[0], UPPER[0]]

    report = hd.sr.srread(tmp_path / "SR.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    sites = [group.finding_sites[0] for group in groups]
    assert {site.value.CodeValue for site in sites} == {"71341001"}
    assert [site.laterality and site.laterality.CodeValue for site in sites] == [LEFT[0], RIGHT[0], None]
    assert sites[2].topographical_modifier.CodeValue == UPPER[0]
    measured = [g for g in dcmqi_measurements(tmp_path / "SR.dcm", tmp_path) if "measurementItems" in g]
    assert {g["Laterality"]["CodeValue"] for g in measured if "Laterality" in g} == {LEFT[0], RIGHT[0]}


def test_a_modifier_is_a_code(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"labels\.0\.modifier\.1 is missing"):
        load_manifest("segmentation", "own", write_femurs(tmp_path / "bundle", ("Left",)))
