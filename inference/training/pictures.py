"""Pictures of outlines on slices, for a look at the results of a training run."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from inference.training.cases import Case
from inference.volumes.geometry import Mask

TRUE, FOUND = (0, 220, 0), (255, 60, 60)
PANELS = 3  # slices, at the quarters of the mass
ENLARGED = 3


def draw_outlines(case: Case, found: Mask, folder: Path) -> None:
    """Draw three slices through the true mass side by side, with the true outline green and the found one red."""
    folder.mkdir(parents=True, exist_ok=True)
    where = np.flatnonzero(case.mask.any(axis=(1, 2)))
    chosen = np.quantile(where, [(i + 1) / (PANELS + 1) for i in range(PANELS)]).round().astype(int)
    panels = np.concatenate([_panel(case.array[k], case.mask[k], found[k]) for k in chosen], axis=1)
    Image.fromarray(panels).save(folder / f"{case.name}.png")


def _panel(image: np.ndarray, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, [1, 99.5])
    grey = (255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    result = np.repeat(_enlarge(grey)[..., None], 3, axis=2)
    for mask, colour in ((truth, TRUE), (found, FOUND)):
        large = _enlarge(mask)
        result[large & ~ndimage.binary_erosion(large)] = colour
    return result


def _enlarge(array: np.ndarray) -> np.ndarray:
    return array.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
