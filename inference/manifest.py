"""What an application declares about itself: `application.toml`, or a site's `bundle.toml`. Loads no torch."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import ModelRefused

APPLICATIONS = Path(__file__).parent / "applications"


@dataclass(frozen=True)
class InputRule:
    """What a series must be to feed one input of an application. None and empty mean: anything."""

    name: str
    modality: str = "MR"
    kind: str | None = None  # a value of inference.series.Kind: "T1w", "T2w", "DWI", "ADC", ...
    dimension: str | None = None  # "2D" or "3D"
    minimum_slices: int = 1
    contrast: bool | None = None
    fat_suppressed: bool | None = None
    required: bool = True


@dataclass(frozen=True)
class Manifest:
    """`folder` holds the weights and whatever else the application reads; `options` is the rest of the descriptor."""

    id: str  # the application's folder in inference/applications
    name: str  # as configured; the same application may run under several names with several bundles
    version: str
    title: str
    inputs: tuple[InputRule, ...]
    folder: Path
    options: dict[str, Any]
    sha256: str  # of the descriptor and every weights file it names: another hash means other results
