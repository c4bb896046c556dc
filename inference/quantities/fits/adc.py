"""Apparent diffusion coefficient (DCM 113041) from diffusion-weighted magnitude images."""

from collections.abc import Sequence

from inference.headers.diffusion import shells
from inference.quantities.fits.fitting import FLOOR, FittedMap, decay, noise_sd, result, stack
from inference.volumes.geometry import Array
from storage.errors import InputRefused

PERFUSED = 50.0  # s/mm2: below, the flow of blood in capillaries adds to the decay (Le Bihan et al. 1988)
SPAN = 200.0  # s/mm2: over less, tissue decays by less than noise does
PLAUSIBLE = (0.0, 5000.0)  # um2/s; free water at body temperature has 3000


def adc_map(images: Sequence[Array], b_values: Sequence[float], noise: float | None = None) -> FittedMap:
    """ADC in um2/s of the mono-exponential model S = S0 exp(-b ADC), b in s/mm2.

    Fitted over b >= 50 where such b-values span 200 s/mm2 at least, else over all. Images may repeat a b-value
    (directions, averages), and their headers may scatter around it: `shells` says which differ.
    `noise` is the SD of the noise in one channel; None measures it in the air around. Signals at the noise floor do not
    count, and a voxel with fewer than two above it is NaN. So is one whose ADC comes out <= 0, which noise makes of
    tissue that hardly diffuses: it counts as `implausible`, and the mean over fat or bone is that of the rest.
    Raises InputRefused: fewer than two different b-values, images of different shapes.
    """
    signals, b = stack(images, b_values, 2, "b-values")
    if len(shells(b)) < 2:
        told = ", ".join(f"{value:g}" for value in dict.fromkeys(b))
        raise InputRefused(f"the fit needs at least 2 different b-values, and {told} are one")
    tissue = shells(b[b >= PERFUSED])
    if tissue and tissue[-1] - tissue[0] >= SPAN:
        signals, b = signals[b >= PERFUSED], b[b >= PERFUSED]
    if noise is None:
        noise = noise_sd(signals[-1])
    floor = FLOOR * (noise or 0.0)
    fit = decay(signals, b, floor)
    return result(1e6 * fit.rate, signals[0] > floor, PLAUSIBLE, b, noise)
