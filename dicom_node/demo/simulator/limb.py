"""The limb phantom as a scanner images it, with the protocols of a phantom study."""

from collections.abc import Mapping
from types import MappingProxyType

from dicom_node.demo.simulator.mr_series import Stack
from dicom_node.demo.simulator.phantom_study import B_VALUES, PROTOCOLS, ImagedLimb
from inference.phantoms.limb.random_limb import limb_grid, limb_phantom
from inference.phantoms.scanner_maps import scanner_adc_map
from inference.phantoms.signals import Acquisition
from inference.volumes.geometry import Geometry

GRIDS: Mapping[str, Geometry] = MappingProxyType(
    {
        "t1w": limb_grid((36, 192, 192), (4.0, 1.15, 1.15)),
        "t2w_fs": limb_grid((36, 160, 160), (4.0, 1.38, 1.38)),
        "dwi": limb_grid((24, 96, 96), (6.0, 2.3, 2.3)),
    }
)


def imaged_limb(seed: int, *, healthy: bool = False) -> ImagedLimb:
    """Image the phantom of `seed`; `healthy` leaves its mass out.

    The b-values share one coil, and so one bias field.
    """
    phantom = limb_phantom(seed).without_mass() if healthy else limb_phantom(seed)
    anatomy = {
        name: (Stack(phantom.render(phantom_acquisition(name), GRIDS[name], seed=i), GRIDS[name].affine),)
        for i, name in enumerate(("t1w", "t2w_fs"))
    }
    grid = GRIDS["dwi"]
    weighted = [
        phantom.render(phantom_acquisition("dwi", b), grid, seed=2, noise_seed=i) for i, b in enumerate(B_VALUES)
    ]
    diffusion = tuple(Stack(image, grid.affine, b) for image, b in zip(weighted, B_VALUES, strict=True))
    adc = (Stack(scanner_adc_map(weighted, B_VALUES), grid.affine),)
    return ImagedLimb(MappingProxyType({**anatomy, "dwi": diffusion, "adc": adc}), phantom.mask(GRIDS["t1w"]))


def phantom_acquisition(name: str, b_value: float = 0.0) -> Acquisition:
    """Return the acquisition that a protocol of PROTOCOLS describes. `b_value` is in s/mm2."""
    protocol = PROTOCOLS[name]
    suppressed = "FS" in protocol.scan_options.split("\\")
    noise = 0.02 if protocol.scanning_sequence == "EP" else 0.012
    return Acquisition(protocol.repetition_time, protocol.echo_time, suppressed, b_value, noise=noise)
