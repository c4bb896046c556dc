"""Weights as 8-bit integers, a quarter of their size, for files in the repository.

Every tensor of two or more axes is held as int8 with one scale for each index of its first axis (of a convolution,
its output channel), symmetric about 0 (Jacob et al. 2018, doi 10.1109/CVPR.2018.00286, without zero points); biases and
norms stay as they are. Nothing computes with integers: the weights are float32 again once they are loaded.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Quantised = dict[str, Tensor]
"""`values` int8, and `scale` float32 with as many axes, of length 1 but for the first."""

LARGEST = 127.0


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor | Quantised]:
    """A state dictionary with its large tensors as integers; torch.save it, and load it with `weights_only=True`.

    A tensor that stands under several names, as modules that share a part have it, is held once.
    """
    held: dict[int, Quantised] = {}
    for tensor in state.values():
        if tensor.ndim > 1 and tensor.data_ptr() not in held:
            held[tensor.data_ptr()] = _quantise(tensor)
    return {name: held[tensor.data_ptr()] if tensor.ndim > 1 else tensor for name, tensor in state.items()}


def dequantise(state: Mapping[str, Tensor | Quantised]) -> dict[str, Tensor]:
    """The state dictionary in floats. One that was never quantised comes back as it is."""
    return {
        name: held["values"].float() * held["scale"] if isinstance(held, dict) else held for name, held in state.items()
    }


def _quantise(tensor: Tensor) -> Quantised:
    largest = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True)
    scale = largest.clamp(min=1e-12) / LARGEST
    return {"values": (tensor / scale).round().to(torch.int8), "scale": scale}
