"""A trial's patients: a limb with a sarcoma at several time points, as a scanner would send it, and the truth."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dicom_node.demo.simulator.mr_series import ADC, T1, T2, Quantity, SeriesProtocol, Stack
from dicom_node.demo.simulator.phantom_study import ImagedLimb, PhantomStudy, write_phantom_study
from inference.phantoms.limb.images import DIXON, DWI, DWI_B_VALUES, T1_MAP, T1W, T1W_FS_POST, T2_MAP, T2W_FS
from inference.phantoms.limb.study import LimbStudy, limb_study, study_grid
from inference.phantoms.limb.truth import recist_category
from inference.phantoms.signals import Acquisition

WHITE = 1000.0  # the value that the phantom's intensities are scaled to
CONTRAST = {"ContrastBolusAgent": "GADOLINIUM CHELATE", "ContrastBolusRoute": "IV", "ContrastBolusVolume": 8}

# One matrix for every set of series that a scanner would plan alike: slices, rows, columns and mm.
MATRICES = (
    (("t1w", "t1w_fs_post"), (40, 192, 192), (4.0, 1.15, 1.15)),
    (("t2w_fs", "water", "fat", "t1_map", "t2_map"), (40, 160, 160), (4.0, 1.38, 1.38)),
    (("dwi", "adc"), (40, 112, 112), (4.0, 1.97, 1.97)),
)
ORDER = ("t1w", "t2w_fs", "dwi", "adc", "t1_map", "t2_map", "water", "fat", "t1w_fs_post")


def write_limb_patient(folder: Path, seed: int, time_points: int) -> Iterator[tuple[PhantomStudy, dict[str, Any]]]:
    """Write the studies of one patient, earliest first, and return each with its truth as plain values.

    The value `response` of the truth is the RECIST 1.1 category since the earlier time points, None at the baseline.
    """
    long_axes: list[float] = []
    for time_point in range(time_points):
        study = limb_study(seed, time_point)
        written = write_limb_study(folder / f"{seed}-{time_point}", study)
        long_axes.append(study.truth.long_axis)
        yield (
            written,
            {
                "seed": seed,
                "time_point": time_point,
                "response": recist_category(long_axes).value if time_point else None,
                **study.truth.plain(),
                "series": {name: series.series_instance_uid for name, series in written.series.items()},
            },
        )


def write_limb_study(folder: Path, study: LimbStudy, healthy: bool = False) -> PhantomStudy:
    """Write every series of one time point; `healthy` leaves the mass out."""
    return write_phantom_study(folder, _examined(study, healthy), study.phantom.seed)


def _examined(study: LimbStudy, healthy: bool) -> ImagedLimb:
    shown = study.without_mass() if healthy else study
    images: dict[str, tuple[Stack, ...]] = {}
    masks = {}
    for names, shape, spacing in MATRICES:
        grid = study_grid(study, shape, spacing)
        on_grid = shown.on(grid)
        for name in names:
            b_values = DWI_B_VALUES if name == "dwi" else (None,)
            images[name] = tuple(
                Stack(on_grid.render(name if b is None else f"dwi_b{b:g}"), grid.affine, b) for b in b_values
            )
        masks[names[0]] = on_grid.masks["mass"]
    ordered = MappingProxyType({name: images[name] for name in ORDER})
    return ImagedLimb(ordered, masks["t1w"], PROTOCOLS, study.time_point)


def _protocol(
    description: str, acquisition: Acquisition, sequence: str, echo_train: int, *image_type: str,
    quantity: Quantity | None = None, bright: float = WHITE, **attributes: Any,
) -> SeriesProtocol:  # fmt: skip
    """Return the header values of a series, whose physics is that of `acquisition`."""
    gradient_echo = acquisition.flip_angle is not None
    return SeriesProtocol(
        description,
        acquisition.repetition_time,
        acquisition.echo_time,
        acquisition.flip_angle or 90.0,
        sequence,
        "SP" if gradient_echo else "SK",
        echo_train,
        image_type or ("ORIGINAL", "PRIMARY", "M", "ND"),
        "FS" if acquisition.fat_suppressed else "",
        "3D" if gradient_echo else "2D",
        MappingProxyType({**attributes, **(CONTRAST if acquisition.contrast_agent else {})}),
        quantity,
        bright,
    )


PROTOCOLS: Mapping[str, SeriesProtocol] = MappingProxyType(
    {
        "t1w": _protocol("T1 TSE axial", T1W, "SE", 3),
        "t2w_fs": _protocol("T2 TSE fat-sat axial", T2W_FS, "SE", 15),
        "dwi": _protocol("DWI b0-50-400-800", DWI, "EP", 64, "ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"),
        "adc": _protocol(
            "ADC", DWI, "EP", 64, "DERIVED", "PRIMARY", "DIFFUSION", "ADC", quantity=ADC, bright=3000.0,
            DerivationDescription="ADC from b0, b50, b400 and b800",
        ),
        "t1_map": _protocol(
            "T1 map", T1_MAP, "GR", 1, "DERIVED", "PRIMARY", "T1 MAP", "NONE", quantity=T1, bright=3000.0,
            DerivationDescription="T1 from spoiled gradient echoes at 4 and 20 degrees",
        ),
        "t2_map": _protocol(
            "T2 map", T2_MAP, "SE", 1, "DERIVED", "PRIMARY", "T2 MAP", "NONE", quantity=T2, bright=200.0,
            DerivationDescription="T2 from spin echoes at 12, 36, 60 and 84 ms",
        ),
        "water": _protocol("Dixon water", DIXON, "GR", 1, "DERIVED", "PRIMARY", "DIXON", "W"),
        "fat": _protocol("Dixon fat", DIXON, "GR", 1, "DERIVED", "PRIMARY", "DIXON", "F"),
        "t1w_fs_post": _protocol("T1 TSE fat-sat axial post contrast", T1W_FS_POST, "SE", 3),
    }
)  # fmt: skip
