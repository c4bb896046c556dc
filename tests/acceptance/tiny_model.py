"""A model folder whose network finds what is bright: small, exact, and as slow as a test needs."""

from pathlib import Path

import torch
from torch import Tensor, nn

from inference.contract.application import load_application
from inference.contract.findings import Findings
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from storage.blobs import file_blobs

BUNDLE = """
version = "1.0"
title = "Bright ball"
algorithm = "Threshold"
manufacturer = "dicom-node tests"
training_data = "none"
[input]
kind = "T1w"
minimum_slices = 5
[model]
weights = "model.ts"
inference = "whole"
[preprocessing]
orientation = "RAS"
spacing = [2.0, 2.0, 2.0]
normalization = { method = "range", lower = 0, upper = 5500 }
[postprocessing]
keep_largest_component = "all"
[[labels]]
value = 1
name = "Ball"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["4147007", "SCT", "Mass"]
color = [220, 40, 40]
"""


class _Threshold(nn.Module):
    """Two channels: background wins below `level`. `rounds` multiplies matrices to take time."""

    def __init__(self, rounds: int, level: float) -> None:
        super().__init__()
        self.rounds = rounds
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        busy = torch.ones(1000, 1000)
        for _ in range(self.rounds):
            busy = torch.mm(busy, busy) / 1000.0
        return torch.cat([self.level - x, x - self.level], 1) * busy.mean()


def write_bundle(folder: Path, rounds: int = 0, each_side: bool = False) -> Path:
    return write_threshold(folder, ('laterality = "each"' if each_side else "") + BUNDLE, rounds=rounds)


def write_threshold(folder: Path, bundle: str, level: float = 0.5, rounds: int = 0) -> Path:
    """Write the folder of a model that finds what is above `level`; `bundle` is its bundle.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.jit.script(_Threshold(rounds, level)).save(str(folder / "model.ts"))
    (folder / "bundle.toml").write_text(bundle)
    return folder


def run_bundle(folder: Path, paths: tuple[Path, ...]) -> Findings:
    """Run the model of `folder` on the series of these files."""
    application = load_application(load_manifest("segmentation", "own", folder))
    return application.run(
        {"image": SeriesInput("image", "1.2", file_blobs(paths))}, TorchEngine("cpu"), lambda what, done: None
    )
