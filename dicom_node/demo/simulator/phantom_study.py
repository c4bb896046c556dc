"""Phantom studies on disk: a limb with a mass as T1w, fat-suppressed T2w, diffusion and ADC, or as other series."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from dicom_node.demo.simulator.mr_series import ADC, SeriesProtocol, Stack, StudyAttributes, write_series
from inference.volumes.geometry import Affine

B_VALUES = (50.0, 400.0, 800.0)  # s/mm2
OBLIQUE_DEGREES = (20.0, -12.0)  # about the patient's x axis, then y
ACQUIRED_AT = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
BETWEEN_TIME_POINTS = timedelta(weeks=8)

PROTOCOLS: Mapping[str, SeriesProtocol] = MappingProxyType(
    {
        "t1w": SeriesProtocol("T1 TSE axial", 600.0, 12.0, 90.0, "SE", "SK", 3),
        "t2w_fs": SeriesProtocol("T2 TSE fat-sat axial", 4000.0, 80.0, 90.0, "SE", "SK", 15, scan_options="FS"),
        "dwi": SeriesProtocol(
            "DWI b50-400-800", 5000.0, 70.0, 90.0, "EP", "SK", 64, ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"), "FS"
        ),
        "adc": SeriesProtocol(
            "ADC", 5000.0, 70.0, 90.0, "EP", "SK", 64, ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), "FS",
            attributes=MappingProxyType({"DerivationDescription": "ADC from b50, b400 and b800"}), quantity=ADC,
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ImagedLimb:
    """Noisy images of one phantom, each [slice, row, column] on a grid of its own, and the truth about its mass."""

    images: Mapping[str, tuple[Stack, ...]]  # the keys of `protocols`; one stack per b-value in "dwi"
    mask: NDArray[np.bool_]  # on the grid of "t1w"
    protocols: Mapping[str, SeriesProtocol] = field(default_factory=lambda: PROTOCOLS)
    time_point: int = 0


@dataclass(frozen=True)
class PhantomSeries:
    """A series that was written, one file per instance."""

    series_instance_uid: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class PhantomStudy:
    """A study that was written. `mask` is the true mass, [slice, row, column] on the grid of the T1w series."""

    study_instance_uid: str
    series: Mapping[str, PhantomSeries]  # by the names of the protocols
    mask: NDArray[np.bool_]
    affine: Affine  # of the mask: (slice, row, column, 1) to LPS mm

    @property
    def paths(self) -> list[Path]:
        return [path for series in self.series.values() for path in series.paths]


def write_phantom_study(
    folder: Path, limb: ImagedLimb, seed: int, *, oblique: bool = False, fresh_uids: bool = True
) -> PhantomStudy:
    """Write `folder`/<series>/<number>.dcm for every image of `limb`.

    `seed` names the patient; a later time point is a study of its own, weeks after the one before. `oblique` turns the
    whole examination by OBLIQUE_DEGREES. Without `fresh_uids` the same seed gives the same UIDs, so that a receiver
    sees the same study again.
    """
    run = str(generate_uid()) if fresh_uids else ""
    later = [f"time point {limb.time_point}"] if limb.time_point else []

    def uid(*names: object) -> str:
        return str(
            generate_uid(entropy_srcs=["dicom-node phantom", run, str(seed), str(oblique), *later, *map(str, names)])
        )

    common = StudyAttributes(
        study_instance_uid=uid("study"),
        frame_of_reference_uid=uid("frame of reference"),
        patient_id=f"PHANTOM-{seed}",
        patient_name="PHANTOM^LIMB",
        acquired_at=ACQUIRED_AT + limb.time_point * BETWEEN_TIME_POINTS,
        body_part="THIGH",
        manufacturer="dicom-node phantom",
        model_name="limb",
        field_strength=3.0,
        study_description="MR thigh, phantom",
    )
    turn = _rotation(*OBLIQUE_DEGREES) if oblique else np.eye(4)
    series = {}
    for number, (name, stacks) in enumerate(limb.images.items(), start=1):
        turned = [replace(stack, affine=turn @ stack.affine) for stack in stacks]
        series_uid = uid(name)
        count = sum(stack.array.shape[0] for stack in stacks)
        paths = write_series(
            folder / name,
            common,
            limb.protocols[name],
            number,
            series_uid,
            [uid(name, i) for i in range(count)],
            turned,
        )
        series[name] = PhantomSeries(series_uid, tuple(paths))
    return PhantomStudy(
        common.study_instance_uid, MappingProxyType(series), limb.mask, turn @ limb.images["t1w"][0].affine
    )


def _rotation(about_x: float, about_y: float) -> Affine:
    """Return the 4 x 4 rotation of patient space, in degrees about the x axis, then about y."""
    a, b = np.radians([about_x, about_y])
    x, y = np.eye(4), np.eye(4)
    x[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    y[0, 0], y[0, 2], y[2, 0], y[2, 2] = np.cos(b), np.sin(b), -np.sin(b), np.cos(b)
    return y @ x
