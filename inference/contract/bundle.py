"""The keys of `bundle.toml`, which describes a site's own model. `config/bundle.toml` is the reference.

This module loads no torch.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from inference.contract.descriptor import validated
from inference.contract.findings import Code
from inference.contract.inputs import Laterality, SeriesRule
from storage.errors import ModelRefused

AXES = {"L": "LR", "R": "LR", "A": "AP", "P": "AP", "S": "SI", "I": "SI"}

Size = Annotated[int, Field(ge=1)]
Sizes = tuple[Size, Size, Size]
Byte = Annotated[int, Field(ge=0, le=255)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelTable(_Part):
    """The table [model]. `weights` is TorchScript, or a state dictionary if `network` names its MONAI configuration."""

    weights: str
    network: str | None = None
    inference: Literal["whole", "sliding_window"] = "sliding_window"
    roi_size: Sizes | None = None
    overlap: float = Field(0.5, ge=0, lt=1)
    output: Literal["softmax", "sigmoid"] = "softmax"  # softmax: argmax over channels; sigmoid: each channel > 0.5

    @model_validator(mode="after")
    def _window(self) -> "ModelTable":
        if self.inference == "sliding_window" and self.roi_size is None:
            raise ValueError("roi_size is needed for sliding_window inference: the size the network was trained on")
        return self


class Normalization(_Part):
    """The scaling of intensities for the network.

    percentile: (x - lower) / (upper - lower) with `lower` and `upper` in percent, clipped to 0..1. zscore: zero mean
    and unit variance. range: `lower` to 0 and `upper` to 1, in the image's own values, clipped.
    """

    method: Literal["percentile", "zscore", "range", "none"] = "percentile"
    lower: float = 0.5
    upper: float = 99.5
    nonzero: bool = False  # computed over the voxels above 0 only


class Preprocessing(_Part):
    """The grid of the images that the network gets.

    `orientation` names where each array axis points: "RAS" is right, anterior, superior. `spacing` is mm along these
    axes. `shape` pads or crops round the centre of the volume.
    """

    orientation: str = "RAS"
    spacing: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    shape: Sizes | None = None
    normalization: Normalization = Normalization()
    foreground_threshold: float | None = None  # crop to voxels brighter than this after normalisation ...
    foreground_margin: int = Field(8, ge=0)  # ... and to this many voxels round them

    @field_validator("orientation")
    @classmethod
    def _axes(cls, value: str) -> str:
        if sorted(AXES.get(letter, "?") for letter in value.upper()) != ["AP", "LR", "SI"]:
            raise ValueError("three letters, one each of L or R, A or P, S or I")
        return value.upper()


class Postprocessing(_Part):
    """The cleaning of masks.

    `keep_largest_component`: "all" keeps the largest connected part of all structures together, "each" keeps the
    largest part of each structure.
    """

    keep_largest_component: Literal["none", "all", "each"] = "none"
    minimum_volume_ml: float = Field(0.0, ge=0)


class Label(_Part):
    """A structure: a value of the argmax (softmax) or a channel's number (sigmoid)."""

    value: int = Field(ge=0)
    name: str = Field(min_length=1, max_length=64)
    category: tuple[str, str, str] = ("91723000", "SCT", "Anatomical Structure")
    type: tuple[str, str, str]  # code value, coding scheme designator, meaning
    modifier: tuple[str, str, str] | None = None  # tells structures of one type apart (PS3.3 C.8.20.4): left and right
    color: tuple[Byte, Byte, Byte]


class Bundle(_Part):
    """The part of `bundle.toml` beside title, version and input."""

    algorithm: str = Field(min_length=1)
    manufacturer: str = Field(min_length=1)
    training_data: str = Field(min_length=1)
    research: bool = True
    notes: tuple[str, ...] = ()
    model: ModelTable
    preprocessing: Preprocessing
    postprocessing: Postprocessing = Postprocessing()
    labels: tuple[Label, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Bundle":
        values = [label.value for label in self.labels]
        if len(set(values)) != len(values):
            raise ValueError("two labels have the same value")
        if self.model.output == "softmax" and 0 in values:
            raise ValueError("label value 0 is the background of a softmax model")
        return self


class BundleFile(Bundle):
    """The whole of `bundle.toml`."""

    version: str = Field(min_length=1)
    title: str = Field(min_length=1)
    laterality: Laterality | None = None
    input: SeriesRule = SeriesRule()


def read_bundle(options: Mapping[str, Any]) -> Bundle:
    """Return the model that the options of a bundle's manifest describe. Raises ModelRefused, naming every mistake."""
    bundle, mistakes = validated(Bundle, options)
    if bundle is None:
        raise ModelRefused("; ".join(mistakes))
    return bundle


def as_code(triple: tuple[str, str, str]) -> Code:
    return Code(*triple)
