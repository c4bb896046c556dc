"""The quantities of the panel: codes, units and ranges."""

from dataclasses import dataclass

from inference.contract.concepts import PERCENT
from inference.contract.findings import Code
from inference.quantities.fits.adc import PLAUSIBLE as ADC_PLAUSIBLE


@dataclass(frozen=True)
class PanelQuantity:
    """A quantity of the panel with its code, its unit and its ranges.

    A voxel outside of `plausible` has no value. The median of a whole map and the mean of a region lie within `limits`;
    in a wrong unit they would lie far outside. `beyond` is the largest share of voxels outside of `plausible` in a map
    of the right unit: it is large for fits, which give any value in noise, and small for fractions. `frame_type` is
    that of a map of the quantity, and `stored_as` are the units in which scanners store it.
    """

    name: str
    label: str
    code: Code
    unit: Code
    plausible: tuple[float, float]
    limits: tuple[float, float]
    frame_type: str
    stored_as: tuple[str, ...]
    beyond: float = 0.5


ADC = PanelQuantity(
    "adc", "ADC", Code("113041", "DCM", "Apparent Diffusion Coefficient"),
    Code("um2/s", "UCUM", "square micrometer per second"), ADC_PLAUSIBLE, (50.0, 4000.0),
    "ADC", ("um2/s", "10*-3.mm2/s", "mm2/s"),
)  # fmt: skip
T1 = PanelQuantity(
    "t1", "T1", Code("113063", "DCM", "T1"), Code("ms", "UCUM", "millisecond"), (20.0, 6000.0), (100.0, 5000.0),
    "T1 map", ("ms", "s"),
)  # fmt: skip
T2 = PanelQuantity(
    "t2", "T2", Code("113065", "DCM", "T2"), Code("ms", "UCUM", "millisecond"), (0.0, 3000.0), (5.0, 1000.0),
    "T2 map", ("ms", "s"),
)  # fmt: skip
FAT = PanelQuantity(
    "fat", "Fat fraction", Code("129100", "DCM", "Fat fraction"), PERCENT, (-20.0, 120.0), (-5.0, 105.0),
    "fat fraction", ("%", "1"), beyond=0.1,
)  # fmt: skip
QUANTITIES = (ADC, T1, T2, FAT)
