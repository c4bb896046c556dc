"""Weights as 8-bit integers, a quarter of their size, for files in the repository.

Every large tensor is held as int8 with one scale for each index of its first axis (the output channel of a
convolution), symmetric about 0 (Jacob et al. 2018, doi 10.1109/CVPR.2018.00286, without zero points). The small tensors
are held in half precision: they are few, and their error would change the answer most. No computation uses integers,
because the weights are converted to float32 when they are loaded.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Quantised = dict[str, Tensor]
"""`values` int8, and `scale` float32 with as many axes, of length 1 but for the first."""

LARGEST = 127.0
SMALL = 2**16  # elements; smaller tensors are not quantised


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor | Quantised]:
    """Return a state dictionary with its large tensors as integers.

    Save it with `torch.save`, and load it with `weights_only=True`. A tensor that has several names, because modules
    share a part, is held once.
    """
    held: dict[tuple[int, int], Tensor | Quantised] = {}
    for tensor in state.values():
        held.setdefault(_place(tensor), _quantise(tensor) if tensor.numel() >= SMALL else tensor.half())
    return {name: held[_place(tensor)] for name, tensor in state.items()}


def dequantise(state: Mapping[str, Tensor | Quantised]) -> dict[str, Tensor]:
    """Return the state dictionary in floats. A dictionary that was never quantised is returned unchanged."""
    return {
        name: held["values"].float() * held["scale"] if isinstance(held, dict) else held for name, held in state.items()
    }


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _quantise(tensor: Tensor) -> Quantised:
    largest = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True)
    scale = largest.clamp(min=1e-12) / LARGEST
    return {"values": (tensor / scale).round().to(torch.int8), "scale": scale}
