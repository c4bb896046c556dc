"""What a training run was made of: hashes of its data and the versions of what computed it."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version

from inference.training.sarcoma import Case

LIBRARIES = ("torch", "monai", "numpy", "scipy")


def data_hash(cases: Iterable[Case]) -> str:
    """SHA-256 over names, grids, images and masks, in the order given; it changes with any voxel."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(f"{case.name} {case.geometry.shape}".encode())
        for array in (case.geometry.affine, case.array, case.mask):
            digest.update(array.tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
