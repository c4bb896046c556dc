"""The apparent diffusion coefficient (DCM 113041) from diffusion-weighted magnitude images."""

from collections.abc import Sequence

from inference.headers.diffusion import shells
from inference.quantities.fits.common import NOISE_FLOOR, FittedMap, fit_decay, fitted_map, noise_sd, stack_images
from inference.volumes.geometry import Array
from storage.errors import InputRefused

PERFUSED = 50.0  # s/mm2: below, the flow of blood in capillaries adds to the decay (Le Bihan et al. 1988)
SPAN = 200.0  # s/mm2: over a shorter span of b-values, noise exceeds the decay of tissue
PLAUSIBLE = (0.0, 5000.0)  # um2/s; free water at body temperature has 3000


def adc_map(images: Sequence[Array], b_values: Sequence[float], noise: float | None = None) -> FittedMap:
    """Fit the ADC in um2/s of the mono-exponential model S = S0 exp(-b ADC), with b in s/mm2.

    The fit takes b >= 50 if such b-values span at least 200 s/mm2, else all of them. Images may repeat a b-value
    (directions, averages), and their headers may scatter around it: `shells` tells which b-values differ. `noise` is
    the SD of the noise in one channel; None measures it in the air around the body. Signals at the noise floor do not
    count, and a voxel with fewer than two above it is NaN. A voxel with an ADC <= 0 is NaN too; noise causes such
    values in tissue with hardly any diffusion. Such a voxel counts as `implausible`, so a mean over fat or bone is the
    mean of the other voxels.

    Raises InputRefused for fewer than two different b-values and for images of different shapes.
    """
    signals, b = stack_images(images, b_values, 2, "b-values")
    if len(shells(b)) < 2:
        told = ", ".join(f"{value:g}" for value in dict.fromkeys(b))
        raise InputRefused(f"the fit needs at least 2 different b-values, and {told} are one")
    tissue = shells(b[b >= PERFUSED])
    if tissue and tissue[-1] - tissue[0] >= SPAN:
        signals, b = signals[b >= PERFUSED], b[b >= PERFUSED]
    if noise is None:
        noise = noise_sd(signals[-1])
    floor = NOISE_FLOOR * (noise or 0.0)
    fit = fit_decay(signals, b, floor)
    return fitted_map(1e6 * fit.rate, signals[0] > floor, PLAUSIBLE, b, noise)
