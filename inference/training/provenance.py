"""The provenance of a training run: its command, hashes of its data, and the versions of its libraries."""

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from inference.training.cases import Case

LIBRARIES = ("torch", "monai", "numpy", "scipy")


def hash_cases(cases: Iterable[Case]) -> str:
    """Return the SHA-256 over names, grids, images and masks, in the order given; it changes with any voxel."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(f"{case.name} {case.geometry.shape}".encode())
        for array in (case.geometry.affine, case.array, case.mask):
            digest.update(array.tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def changed_options(settings: Any) -> list[str]:
    """Return the options of the training command that give `settings`: those that are not the defaults."""
    changed = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    return [f"--{key.replace('_', '-')} {'WEIGHTS' if key == 'start' else value}" for key, value in changed.items()]
