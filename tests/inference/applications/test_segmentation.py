"""The models of sites, run by `segmentation`: the result lies where the truth is, on any grid."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from inference.applications.segmentation.grid import masks_to_source, model_grid, normalize
from inference.contract.bundle import Normalization, Preprocessing
from inference.volumes.geometry import Geometry
from storage.errors import ModelRefused
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import BUNDLE, run_bundle, write_bundle


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("orientation", ["RAS", "LIA", "SPL"])
def test_the_result_lies_where_the_truth_is(tmp_path: Path, oblique: bool, orientation: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "bundle.toml").write_text(BUNDLE.replace('"RAS"', f'"{orientation}"'))
    study = write_ball_study(tmp_path / "study", oblique=oblique)
    found = run_bundle(bundle, study.series["t1w"].paths)
    (segment,) = found.segments
    both = (segment.mask & study.mask).sum()
    assert 2 * both / (segment.mask.sum() + study.mask.sum()) > 0.93
    assert found.algorithm.weights_sha256


def test_sliding_windows_and_sigmoid_give_the_same(tmp_path: Path) -> None:
    study = write_ball_study(tmp_path / "study")
    whole = run_bundle(write_bundle(tmp_path / "bundle"), study.series["t1w"].paths)
    text = BUNDLE.replace('inference = "whole"', 'roi_size = [48, 48, 48]\noutput = "sigmoid"')
    (tmp_path / "bundle" / "bundle.toml").write_text(text)
    windows = run_bundle(tmp_path / "bundle", study.series["t1w"].paths)
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
    assert run_bundle(tmp_path, study.series["t1w"].paths).algorithm.name == "Threshold"


@pytest.mark.parametrize("target", ["os.system", "monai.networks.nets.os", "torch.load"])
def test_a_configuration_may_name_networks_only(tmp_path: Path, target: str) -> None:
    bundle = write_bundle(tmp_path)
    (bundle / "net.json").write_text(json.dumps({"network_def": {"_target_": target, "command": "true"}}))
    (bundle / "bundle.toml").write_text(BUNDLE.replace('"model.ts"', '"model.ts"\nnetwork = "net.json"'))
    study = write_ball_study(tmp_path / "study")
    with pytest.raises(ModelRefused, match="is no network"):
        run_bundle(bundle, study.series["t1w"].paths)


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
