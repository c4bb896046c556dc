"""The model folder of a site: its keys, how it runs, and what is refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from inference.applications.segmentation.grid import masks_to_source, model_grid, normalize
from inference.contract.application import load_application
from inference.contract.bundle import Normalization, Preprocessing
from inference.contract.findings import Findings
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.devices import resolve_devices
from inference.engine.models import TorchEngine
from inference.volumes.geometry import Geometry
from storage.errors import ModelRefused, Permanent
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import BUNDLE, write_bundle


def run(bundle: Path, paths: tuple[Path, ...]) -> Findings:
    application = load_application(load_manifest("segmentation", "own", bundle))
    return application.run({"image": SeriesInput("image", "1.2", paths)}, TorchEngine("cpu"), lambda what, done: None)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("orientation", ["RAS", "LIA", "SPL"])
def test_the_result_lies_where_the_truth_is(tmp_path: Path, oblique: bool, orientation: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "bundle.toml").write_text(BUNDLE.replace('"RAS"', f'"{orientation}"'))
    study = write_ball_study(tmp_path / "study", oblique=oblique)
    found = run(bundle, study.series["t1w"].paths)
    (segment,) = found.segments
    both = (segment.mask & study.mask).sum()
    assert 2 * both / (segment.mask.sum() + study.mask.sum()) > 0.93
    assert found.algorithm.weights_sha256


def test_sliding_windows_and_sigmoid_give_the_same(tmp_path: Path) -> None:
    study = write_ball_study(tmp_path / "study")
    whole = run(write_bundle(tmp_path / "bundle"), study.series["t1w"].paths)
    text = BUNDLE.replace('inference = "whole"', 'roi_size = [48, 48, 48]\noutput = "sigmoid"')
    (tmp_path / "bundle" / "bundle.toml").write_text(text)
    windows = run(tmp_path / "bundle", study.series["t1w"].paths)
    assert np.array_equal(windows.segments[0].mask, whole.segments[0].mask)


def test_a_monai_bundle_runs_from_its_state_dictionary(tmp_path: Path) -> None:
    definition = {
        "_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
        "channels": [4, 8], "strides": [2],
    }  # fmt: skip
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"network_def": definition}))
    network = UNet(**{k: v for k, v in definition.items() if k != "_target_"})
    torch.save(network.state_dict(), tmp_path / "models" / "model.pt")
    (tmp_path / "bundle.toml").write_text(
        BUNDLE.replace('"model.ts"', '"models/model.pt"\nnetwork = "configs/inference.json"').replace(
            '"whole"', '"sliding_window"\nroi_size = [32, 32, 32]'
        )
    )
    study = write_ball_study(tmp_path / "study")
    assert run(tmp_path, study.series["t1w"].paths).algorithm.name == "Threshold"


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    trace = tmp_path / "executed"

    class Harmful:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {trace}",)

    (bundle / "model.ts").write_bytes(pickle.dumps(Harmful()))
    definition = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8]}
    (bundle / "net.json").write_text(json.dumps({"network_def": definition | {"strides": [2]}}))
    study = write_ball_study(tmp_path / "study")
    for text in (BUNDLE, BUNDLE.replace('"model.ts"', '"model.ts"\nnetwork = "net.json"')):
        (bundle / "bundle.toml").write_text(text)
        with pytest.raises(ModelRefused, match="cannot be loaded as a model"):
            run(bundle, study.series["t1w"].paths)
    assert not trace.exists()


@pytest.mark.parametrize("target", ["os.system", "monai.networks.nets.os", "torch.load"])
def test_a_configuration_may_name_networks_only(tmp_path: Path, target: str) -> None:
    bundle = write_bundle(tmp_path)
    (bundle / "net.json").write_text(json.dumps({"network_def": {"_target_": target, "command": "true"}}))
    (bundle / "bundle.toml").write_text(BUNDLE.replace('"model.ts"', '"model.ts"\nnetwork = "net.json"'))
    study = write_ball_study(tmp_path / "study")
    with pytest.raises(ModelRefused, match="is no network"):
        run(bundle, study.series["t1w"].paths)


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


def test_weights_that_change_under_the_node_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    application = load_application(load_manifest("segmentation", "own", bundle))
    write_bundle(tmp_path / "bundle", rounds=1)
    study = write_ball_study(tmp_path / "study")
    with pytest.raises(ModelRefused, match="changed while the node was running"):
        application.run(
            {"image": SeriesInput("image", "1.2", study.series["t1w"].paths)},
            TorchEngine("cpu"),
            lambda what, done: None,
        )


def test_the_models_grid_is_centred_on_the_source() -> None:
    affine = np.diag([4.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    source = Geometry((20, 100, 80), affine)
    grid = model_grid(source, Preprocessing(orientation="LIA", spacing=(2, 2, 2), shape=(64, 64, 64)))
    centres = [g.to_lps((np.array([g.shape]) - 1) / 2) for g in (source, grid)]
    assert np.allclose(*centres)
    assert np.allclose(grid.affine[:3, :3], np.array([[2, 0, 0], [0, 0, -2], [0, -2, 0]]))


def test_structures_keep_their_volume_across_grids() -> None:
    fine = Geometry((60, 60, 60), np.eye(4))
    grid = np.indices(fine.shape)
    balls = [
        np.asarray(((grid - np.array(c)[:, None, None, None]) ** 2).sum(0) < 12**2)
        for c in ((20, 30, 30), (43, 30, 30))
    ]
    thick = np.diag([4.8, 1.02, 1.02, 1.0])
    thick[:3, 3] = [1.3, 0.4, 0.2]
    source = Geometry((12, 58, 58), thick)
    for mask, moved in zip(balls, masks_to_source(balls, fine, source), strict=True):
        assert moved.sum() * source.voxel_volume == pytest.approx(mask.sum(), rel=0.08)
    overlapping = [balls[0], balls[0] | balls[1]]
    for mask, moved in zip(overlapping, masks_to_source(overlapping, fine, source), strict=True):
        assert moved.sum() * source.voxel_volume == pytest.approx(mask.sum(), rel=0.08)


def test_normalisation() -> None:
    image = np.arange(101, dtype=np.float32)[None, None]
    assert normalize(image, Normalization(method="percentile", lower=10, upper=90))[0, 0, [5, 50, 95]] == pytest.approx(
        [0, 0.5, 1]
    )
    assert normalize(image, Normalization(method="zscore")).std() == pytest.approx(1, rel=1e-3)


def test_devices() -> None:
    assert resolve_devices("cpu") == ["cpu"]
    assert resolve_devices("auto")
    with pytest.raises(Permanent, match="allowed: auto, cpu"):
        resolve_devices("gpu")
