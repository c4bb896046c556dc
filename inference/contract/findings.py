"""The findings of an application: frozen values in the image's own geometry, without DICOM encoding.

Masks are boolean arrays [slice, row, column] on the grid of `Findings.source`; lengths are in mm, in LPS.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from inference.volumes.geometry import Mask
from inference.volumes.volume import Volume
from storage.errors import WhyNoResult


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 section 8)."""

    value: str
    scheme: str  # coding scheme designator: SCT, DCM, UCUM, IBSI, LN, 99DCMNODE
    meaning: str


# Reasons why a number is missing (PS3.16 CID 42).
MEASUREMENT_FAILURE = Code("114006", "DCM", "Measurement failure")
NOT_ATTEMPTED = Code("114007", "DCM", "Measurement not attempted")
OUT_OF_RANGE = Code("114009", "DCM", "Value out of range")


@dataclass(frozen=True)
class Measurement:
    """A number with its unit (UCUM). `derivation` says which statistic it is, if it is one.

    `value` is None if it could not be determined, and `missing` (CID 42) then is the reason.
    """

    name: Code
    value: float | None
    unit: Code
    derivation: Code | None = None
    missing: Code | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.missing is None):
            raise ValueError(f"{self.name.meaning}: either a value, or the reason why there is none")


@dataclass(frozen=True)
class Evaluation:
    """A qualitative result: a coded question and its coded answer."""

    name: Code
    value: Code


@dataclass(frozen=True, eq=False)
class Segment:
    """A segmented structure or lesion. `mask` is never empty: a structure that was not found is not a segment."""

    label: str
    mask: Mask
    category: Code  # CID 7150: anatomical structure, morphologically abnormal structure
    type: Code  # CID 7151 and others: what the structure is
    color: tuple[int, int, int]  # sRGB, 0..255
    tracking_id: str
    tracking_uid: str
    anatomic_region: Code | None = None
    modifier: Code | None = None  # of the type, such as left or right (PS3.3 C.8.20.4)
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    probability: NDArray[np.float32] | None = None  # 0..1 on the same grid, for a FRACTIONAL segmentation

    def __post_init__(self) -> None:
        if self.mask.dtype != np.bool_ or self.mask.ndim != 3:
            raise ValueError(f"segment {self.label!r}: the mask must be a 3D boolean array")
        if not self.mask.any():
            raise ValueError(f"segment {self.label!r}: the mask is empty; leave the segment out instead")
        if self.probability is not None and self.probability.shape != self.mask.shape:
            raise ValueError(f"segment {self.label!r}: mask and probability have different shapes")


@dataclass(frozen=True, eq=False)
class ParametricMap:
    """A quantity at every voxel: `values` (float32, [slice, row, column]) in `unit`, NaN where a voxel has none.

    `sources` are the volumes from which it was computed, and `derivation` is the code of the computation (PS3.16 CID
    7203); it is None for a map of the scanner, which is the only source then. `method` is the code that says how the
    quantity was measured, if there is one: CID 7273 has the models of diffusion.
    """

    label: str  # short, for SeriesDescription: "ADC"
    quantity: Code
    unit: Code
    values: NDArray[np.float32]
    sources: tuple[Volume, ...]
    derivation: Code | None = None
    method: Code | None = None


@dataclass(frozen=True)
class TimePoint:
    """The time point of a course to which the images belong (PS3.16 TID 1502). Unknown parts are empty or None."""

    label: str  # "baseline"
    order: int | None = None  # 1 for the first
    subject_identifier: str = ""
    protocol_identifier: str = ""


@dataclass(frozen=True)
class Algorithm:
    """The algorithm of the findings. The weights' hash makes the device UID, so other weights are another device."""

    name: str
    version: str
    manufacturer: str
    weights_sha256: str
    training_data: str  # the data from which the model learned, in a few words


@dataclass(frozen=True, eq=False)
class Findings:
    """The result of one application over its inputs.

    `inputs` are all volumes that were used. `source` is the volume among them on whose grid the masks lie. `notes` are
    sentences that the reader of the report must see: limits, and what could not be computed. If there are no segments,
    nothing was found; this is a result too, and is reported. `input_series` names the series of the inputs for the
    reader of the report.
    """

    source: Volume
    inputs: tuple[Volume, ...]
    segments: tuple[Segment, ...]
    algorithm: Algorithm
    title: str  # short name of the analysis, for SeriesDescription: "Soft tissue mass"
    started_at: datetime
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    maps: tuple[ParametricMap, ...] = ()
    time_point: TimePoint | None = None
    notes: tuple[str, ...] = ()
    input_series: tuple[str, ...] = ()
    research: bool = True

    def __post_init__(self) -> None:
        for segment in self.segments:
            if segment.mask.shape != self.source.array.shape:
                raise ValueError(
                    f"segment {segment.label!r} has shape {segment.mask.shape}, its source {self.source.array.shape}"
                )
        for one in self.maps:
            if one.values.shape != self.source.array.shape:
                raise ValueError(
                    f"map {one.label!r} has shape {one.values.shape}, its source {self.source.array.shape}"
                )


@dataclass(frozen=True)
class NotComputed:
    """The statement that an application computed nothing. `explanation` is a sentence for the reader of the report.

    `algorithm` is None if the model itself cannot be used.
    """

    title: str  # as in Findings
    why: WhyNoResult
    explanation: str
    algorithm: Algorithm | None = None


@dataclass(frozen=True)
class NoResult:
    """The statement about all applications, at least one, that computed nothing for a study."""

    applications: tuple[NotComputed, ...]
    started_at: datetime
    research: bool = True

    @property
    def title(self) -> str:
        """The title of the application, or the number of the applications."""
        first, *others = self.applications
        return f"{1 + len(others)} applications" if others else first.title

    @property
    def algorithm(self) -> Algorithm | None:
        """The algorithm of the application; None for several applications."""
        first, *others = self.applications
        return None if others else first.algorithm
