"""Imperfections of an image: the receive field of the coil, Rician noise, and motion during the acquisition.

Rician noise follows Gudbjartsson and Patz 1995, doi 10.1002/mrm.1910340618.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.phantoms.scene import Field
from inference.volumes.geometry import Geometry


def bias_field(rng: np.random.Generator, grid: Geometry, amount: float) -> Field:
    """Return the receive sensitivity of a volume coil: a smooth field near 1."""
    coarse = rng.normal(size=(4, 4, 4))
    zoom = [n / 4 for n in grid.shape]
    smooth = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    return np.asarray(np.exp(amount * smooth[: grid.shape[0], : grid.shape[1], : grid.shape[2]]), dtype=np.float32)


def surface_coil_field(rng: np.random.Generator, grid: Geometry, amount: float) -> Field:
    """Return the receive sensitivity of a coil that lies on one side of the body, at a random angle.

    Within a slice it falls off with the distance from that side, and from slice to slice towards both ends of the grid.
    """
    angle = rng.uniform(0, 2 * np.pi)
    s, r, c = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape)
    across = np.float32(np.sin(angle)) * r[:, None] + np.float32(np.cos(angle)) * c[None, :]
    return np.asarray(np.exp(amount * (across[None] - 0.8 * s[:, None, None] ** 2)), dtype=np.float32)


def rician(rng: np.random.Generator, clean: NDArray[Any], noise: float) -> Field:
    """Return the magnitude of a real or complex image after adding Gaussian noise of SD `noise` to both channels."""
    real = np.real(clean) + rng.normal(0.0, noise, clean.shape).astype(np.float32)
    imaginary = np.imag(clean) + rng.normal(0.0, noise, clean.shape).astype(np.float32)
    return np.asarray(np.hypot(real, imaginary), dtype=np.float32)


def moved_between_lines(image: Field, shifts: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Return the complex image [slice, row, column] of an object that moved while `image` was acquired.

    Rows are phase-encoded, and the lines of k-space are acquired in order from one edge to the other. `shifts` is
    (rows, 2): the position of the object at each line, in voxels along (row, column). Periodic shifts make ghosts.
    """
    rows, columns = image.shape[1:]
    along, across = np.fft.fftshift(np.fft.fftfreq(rows)), np.fft.fftfreq(columns)
    turned = np.exp(-2j * np.pi * (along * shifts[:, 0])[:, None] - 2j * np.pi * shifts[:, 1:] * across[None, :])
    return np.fft.ifft2(np.fft.fft2(image, axes=(1, 2)) * np.fft.ifftshift(turned, axes=0), axes=(1, 2)).astype(
        np.complex64
    )


def periodic_shifts(rng: np.random.Generator, rows: int, amplitude: float) -> NDArray[np.float64]:
    """Return one shift for each row, for `moved_between_lines`: a wave of some periods and `amplitude` voxels."""
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(5.0, 20.0) * np.arange(rows) / rows
    return np.stack([amplitude * np.sin(phase), np.zeros(rows)], axis=1)
