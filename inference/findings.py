"""What an application found: frozen values in the image's own geometry, no DICOM encoding.

Masks are boolean arrays [slice, row, column] on the grid of `Findings.source`; lengths are mm, in LPS.
"""

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from inference.volume import Volume

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 section 8)."""

    value: str
    scheme: str  # coding scheme designator: SCT, DCM, UCUM, IBSI, LN, 99DCMNODE
    meaning: str


@dataclass(frozen=True)
class Measurement:
    """A number with its unit (UCUM). `derivation` says which statistic it is, where it is one."""

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None


@dataclass(frozen=True)
class Evaluation:
    """A qualitative result: a coded question and its coded answer."""

    name: Code
    value: Code


@dataclass(frozen=True, eq=False)
class Segment:
    """One segmented structure or lesion. `mask` is never empty: a structure that was not found is not a segment."""

    label: str
    mask: Mask
    category: Code  # CID 7150: anatomical structure, morphologically abnormal structure
    type: Code  # CID 7151 and others: what it is
    color: tuple[int, int, int]  # sRGB, 0..255
    tracking_id: str
    tracking_uid: str
    anatomic_region: Code | None = None
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    def __post_init__(self) -> None:
        if self.mask.dtype != np.bool_ or self.mask.ndim != 3:
            raise ValueError(f"segment {self.label!r}: the mask must be a 3D boolean array")
        if not self.mask.any():
            raise ValueError(f"segment {self.label!r}: the mask is empty; leave the segment out instead")


@dataclass(frozen=True)
class Algorithm:
    """What computed the findings. The weights' hash makes the device UID, so other weights are another device."""

    name: str
    version: str
    manufacturer: str
    weights_sha256: str
    training_data: str  # what the model learned from, in a few words


@dataclass(frozen=True, eq=False)
class Findings:
    """The result of one application over its inputs.

    `inputs` are all volumes that were used, `source` among them: the one whose grid the masks lie on. `notes` are
    sentences the reader of the report must see (limits, what could not be computed). No segments means that nothing
    was found, which is a result and is reported.
    """

    source: Volume
    inputs: tuple[Volume, ...]
    segments: tuple[Segment, ...]
    algorithm: Algorithm
    title: str  # short name of the analysis, for SeriesDescription: "Soft tissue mass"
    started_at: datetime
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    notes: tuple[str, ...] = ()
    research: bool = True
    procedure_reported: Code = field(default=Code("25056-3", "LN", "MRI unspecified body region"))

    def __post_init__(self) -> None:
        for segment in self.segments:
            if segment.mask.shape != self.source.array.shape:
                raise ValueError(
                    f"segment {segment.label!r} has shape {segment.mask.shape}, its source {self.source.array.shape}"
                )
