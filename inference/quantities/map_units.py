"""The values of a map in the unit of its quantity: by the unit that its headers state, else by what is plausible."""

from collections.abc import Sequence

import numpy as np

from inference.headers.units import Unit, unit_of
from inference.quantities.panel_quantities import PanelQuantity
from inference.volumes.geometry import Array
from inference.volumes.volume import Volume
from storage.errors import InputRefused

NOT_STATED = (
    "The headers of the {} series do not state the unit of its values; {} was taken, the only one in which they are "
    "plausible."
)
FRACTION = 1.5  # the largest value of a fat fraction in parts of one, with its noise


def map_values(quantity: PanelQuantity, volume: Volume) -> tuple[Array, str]:
    """Return the plausible values of a map in the unit of `quantity`, NaN elsewhere, and a note for the reader.

    The note is empty if the headers state the unit. Raises InputRefused if they state one that is none of the quantity,
    or if no unit, or more than one, makes the values plausible.
    """
    unit = known_unit(quantity.unit.value)
    stated = volume.in_unit(unit)
    if stated is not None:
        return plausible_values(quantity, stated), ""
    if volume.stated_units:
        raise InputRefused(
            f"the headers of the series state {' and '.join(volume.stated_units)}, which does not convert to the unit "
            f"of {quantity.label}, {quantity.unit.value}"
        )
    shown = volume.array if isinstance(volume.display_scale, float) else volume.array * volume.display_scale
    found = []
    for spelling in _possible_units(quantity, shown):
        factor = np.float32(known_unit(spelling).per(unit))
        try:
            found.append((spelling, plausible_values(quantity, shown * factor)))
        except InputRefused:
            continue
    if len(found) != 1:
        raise InputRefused(f"the values of the series cannot be {quantity.label} in {quantity.unit.value}")
    ((spelling, values),) = found
    return values, NOT_STATED.format(quantity.label, spelling)


def plausible_values(quantity: PanelQuantity, array: Array) -> Array:
    """Return the map without the values that no tissue can have.

    Raises InputRefused if the map cannot be in the unit of the quantity: too many of its values, zeros aside, are
    outside of `plausible`, or the median of the others is outside of `limits`. The median alone would not be enough: of
    a fat fraction in per mille, only lean muscle would remain, and the median of lean muscle is plausible in percent.
    """
    low, high = quantity.plausible
    measured, kept = np.isfinite(array) & (array != 0), (array > low) & (array < high)
    unfit = np.count_nonzero(measured & ~kept) > quantity.beyond * np.count_nonzero(measured)
    median = float(np.median(array[kept])) if kept.any() else float("nan")
    if unfit or not quantity.limits[0] <= median <= quantity.limits[1]:
        raise InputRefused(f"the values of the series cannot be {quantity.label} in {quantity.unit.value}")
    return np.where(kept, array, np.nan).astype(np.float32)


def known_unit(text: str) -> Unit:
    unit = unit_of(text)
    assert unit is not None
    return unit


def _possible_units(quantity: PanelQuantity, values: Array) -> Sequence[str]:
    """Return the units in which scanners store the quantity. The values of a fraction tell which of two it is."""
    if quantity.unit.value != "%":
        return quantity.stored_as
    known = values[np.isfinite(values)]
    return ("1",) if known.size and float(np.percentile(known, 99)) <= FRACTION else ("%",)
