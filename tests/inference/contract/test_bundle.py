"""The descriptor of a site's model folder, and how its mistakes are told."""

from pathlib import Path

import pytest

from inference.contract.manifest import load_manifest
from storage.errors import ModelRefused
from tests.acceptance.tiny_model import BUNDLE, write_bundle


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"RAS"', '"RAR"', "one each of L or R, A or P, S or I"),
        ("value = 1", "value = 0", "background"),
        ('inference = "whole"', "", "roi_size is needed"),
        ('title = "Bright ball"', "", "title is missing"),
        ('kind = "T1w"', 'kind = "T1"', "input.kind = 'T1'; allowed: T1w, .* did you mean 'T1w'"),
        ("minimum_slices = 5", 'minimum_slices = "twenty"', "input.minimum_slices = 'twenty': must be a whole number"),
        ("minimum_slices = 5", 'minimum_slices = "5"', "input.minimum_slices = '5': must be a whole number"),
        ("minimum_slices = 5", 'body_parts = "THIGH"', "input.body_parts = 'THIGH': must be a list"),
        ("minimum_slices = 5", "contrast = 1", "input.contrast = 1: must be true or false"),
        ("minimum_slices = 5", 'modality = "MRI"', "input.modality = 'MRI'; allowed: MR, CT, PT"),
        (
            '[input]\nkind = "T1w"\nminimum_slices = 5',
            'input = "T1w"',
            "input = 'T1w': must be a table .* minimum_slices",
        ),
        ('version = "1.0"', "version = 1.0", "version = 1.0: must be a text"),
        ('weights = "model.ts"', "weights = 1", "model.weights = 1: must be a text"),
        ("minimum_slices", "minimum_slice", "did you mean 'minimum_slices'"),
        ("color = [220, 40, 40]", "color = [220, 40, 400]", "labels.0.color.2 = 400"),
        ('algorithm = "Threshold"', "", "algorithm is missing"),
    ],
)
def test_a_wrong_descriptor_is_told_by_key(tmp_path: Path, old: str, new: str, told: str) -> None:
    bundle = write_bundle(tmp_path)
    assert old in BUNDLE
    (bundle / "bundle.toml").write_text(BUNDLE.replace(old, new))
    with pytest.raises(ModelRefused, match=told):
        load_manifest("segmentation", "own", bundle)


def test_all_mistakes_of_a_descriptor_are_told_together(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    text = (
        BUNDLE.replace("minimum_slices = 5", 'minimum_slices = "5"')
        .replace("model.ts", "model.pt")
        .replace("spacing", "spacin")
    )
    (bundle / "bundle.toml").write_text(text.replace('title = "Bright ball"', ""))
    with pytest.raises(ModelRefused) as refused:
        load_manifest("segmentation", "own", bundle)
    for told in ("minimum_slices", "'model.pt': there is no such file", "did you mean 'spacing'", "title is missing"):
        assert told in str(refused.value)
