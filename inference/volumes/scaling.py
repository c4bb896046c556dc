"""Scaling of stored values to the numbers of a volume.

These numbers are the output of the modality LUT (PS3.3 C.11.1): what every viewer shows, in the unit of a map if it has
one. Philips chooses the slope of every image type and every series for display, so these numbers need not be comparable
between two series, or between two volumes of one. Its private Scale Slope leads back to the measured value: stored
value / Scale Slope = (stored value x Rescale Slope + Rescale Intercept) / (Rescale Slope x Scale Slope) if the
intercept is 0 (Chenevert et al., Transl Oncol 2014;7:65, PMC3998685).
"""

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from inference.headers.private import PrivateElements
from inference.volumes.planes import functional, is_enhanced

PHILIPS_FRAME = (0x2005, "Philips MR Imaging DD 005", 0x0F, "PHILIPS")  # sequence in the functional groups of a frame
SCALE_SLOPE = (0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", "PHILIPS")


def rescale(ds: Dataset, frame_number: int | None) -> tuple[float, float]:
    """Return slope and intercept of the modality LUT (PS3.3 C.11.1, C.7.6.16.2.9); 1 and 0 if there is no LUT."""
    source: Dataset | None = ds
    if frame_number is not None and is_enhanced(ds):
        source = functional(ds, frame_number - 1, "PixelValueTransformationSequence")
    if source is None:
        return 1.0, 0.0
    return float(source.get("RescaleSlope", 1) or 1), float(source.get("RescaleIntercept", 0) or 0)


def signal_scale(ds: Dataset, frame_number: int | None) -> float:
    """Return Rescale Slope x Scale Slope of a Philips image; 1 for every other image."""
    source, manufacturer = ds, str(ds.get("Manufacturer", ""))
    if frame_number is not None and is_enhanced(ds):
        frame = ds.PerFrameFunctionalGroupsSequence[frame_number - 1]
        items = PrivateElements(frame, manufacturer).value(*PHILIPS_FRAME)
        if not isinstance(items, Sequence) or not items:  # without its creator it may come as bytes
            return 1.0
        source = items[0]
    numbers = PrivateElements(source, manufacturer).numbers(*SCALE_SLOPE)
    return numbers[0] * rescale(ds, frame_number)[0] if numbers and numbers[0] > 0 else 1.0
