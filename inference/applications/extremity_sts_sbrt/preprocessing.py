"""The way from the images of a limb to the input of the network, and from its output to structures.

Training and the application share this code, so that the network sees what it was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.applications.extremity_sts_sbrt.network import CONTRASTS, MULTIPLE, STRUCTURES
from inference.volumes.canonical import canonical
from inference.volumes.geometry import Array, Geometry, Mask
from inference.volumes.measurements import largest_component, volume_ml
from inference.volumes.resampling import resample_to_spacing

PIXEL = 1.5  # mm, within slices
THICKNESS = (3.0, 6.0)  # mm: slices are resampled only where they are thinner or thicker
SMALLEST_STRUCTURE = 1.0  # mL: a smaller mass or oedema is not reported
BRIGHTEST = 2.0  # Inputs are cut here. Fat, or what is as bright, lies near 1; maps are relative to SCALES.
SCALES = {"adc": 1500.0, "t1_map": 1500.0, "t2_map": 100.0}  # um2/s, ms, ms


@dataclass(frozen=True, eq=False)
class PreparedLimb:
    """The input of the network: `array` [contrast, slice, row, column] on `geometry`, in the order of CONTRASTS.

    Its axes point towards the head, the back and the left. Rows and columns of zeros at the end fill it up to multiples
    of MULTIPLE.
    """

    array: NDArray[np.float32]
    geometry: Geometry


def prepare_limb(images: Mapping[str, Array], geometry: Geometry) -> PreparedLimb:
    """Bring images and maps of CONTRASTS, [slice, row, column] on `geometry`, to the grid and range of the network.

    Maps are in um2/s and ms, NaN where there is no value. A missing contrast becomes 0.
    """
    prepared, grid = {}, geometry
    for name, array in images.items():
        scaled = np.nan_to_num(array) / SCALES[name] if name in SCALES else _relative(array)
        turned, affine = canonical(np.clip(scaled, 0.0, BRIGHTEST).astype(np.float32), geometry.affine)
        thickness = float(np.clip(np.linalg.norm(affine[:3, 0]), *THICKNESS))
        seen, affine = resample_to_spacing(turned, affine, (thickness, PIXEL, PIXEL))
        fill = [(0, 0), *((0, -n % MULTIPLE) for n in seen.shape[1:])]
        prepared[name] = np.pad(seen, fill)
        s, r, c = prepared[name].shape
        grid = Geometry((s, r, c), affine)
    stacked = np.zeros((len(CONTRASTS), *grid.shape), np.float32)
    for name, seen in prepared.items():
        stacked[CONTRASTS.index(name)] = seen
    return PreparedLimb(stacked, grid)


def restore_structures(
    probability: NDArray[np.float32], prepared: PreparedLimb, geometry: Geometry
) -> NDArray[np.float32]:
    """Interpolate probabilities [structure, slice, row, column] linearly to the grid of the images.

    Outside of the network's grid the nearest value is taken.
    """
    into = np.linalg.inv(prepared.geometry.affine) @ geometry.affine
    return np.stack(
        [
            ndimage.affine_transform(
                one, into[:3, :3], into[:3, 3], geometry.shape, order=1, mode="nearest", output=np.float32
            )
            for one in probability
        ]
    )


def find_structures(probability: NDArray[np.float32], geometry: Geometry, threshold: float) -> dict[str, Mask]:
    """Return the masks of the structures that were found, from probabilities [structure, slice, row, column].

    Only the largest connected part is kept of mass, bundle and bone. Necrosis lies inside of the mass, oedema outside;
    both need a mass. A mass or an oedema below SMALLEST_STRUCTURE is dropped.
    """
    found: dict[str, Mask] = {name: one >= threshold for name, one in zip(STRUCTURES, probability, strict=True)}
    mass = _large(largest_component(found["mass"]), geometry)
    return {
        name: mask
        for name, mask in {
            "mass": mass,
            "necrosis": found["necrosis"] & mass,
            "oedema": _large(found["oedema"] & ~mass & bool(mass.any()), geometry),
            "bundle": largest_component(found["bundle"]),
            "bone": largest_component(found["bone"]),
        }.items()
        if mask.any()
    }


def _large(mask: Mask, geometry: Geometry) -> Mask:
    """Return `mask`, or an empty mask if it is smaller than SMALLEST_STRUCTURE."""
    return mask if volume_ml(mask, geometry) >= SMALLEST_STRUCTURE else np.zeros_like(mask)


def _relative(array: Array) -> Array:
    """Scale intensities so that air is 0 and the brightest hundredth of the body is 1."""
    low, high = np.percentile(array, [0.5, 99.9])
    shifted = array - low
    body = shifted[shifted > 0.08 * (high - low)]
    return shifted / max(float(np.percentile(body, 99.0)), 1e-6) if body.size else np.zeros_like(array)
