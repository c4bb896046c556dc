"""The loading of models: no code of theirs is run, and files that changed are refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.contract.application import load_application
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from storage.blobs import file_blobs
from storage.errors import ModelRefused
from tests.acceptance.studies import write_ball_study
from tests.acceptance.tiny_model import BUNDLE, run_bundle, write_bundle


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
            run_bundle(bundle, study.series["t1w"].paths)
    assert not trace.exists()


def test_weights_that_change_under_the_node_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    application = load_application(load_manifest("segmentation", "own", bundle))
    write_bundle(tmp_path / "bundle", rounds=1)
    study = write_ball_study(tmp_path / "study")
    with pytest.raises(ModelRefused, match="changed while the node was running"):
        application.run(
            {"image": SeriesInput("image", "1.2", file_blobs(study.series["t1w"].paths))},
            TorchEngine("cpu"),
            lambda what, done: None,
        )
