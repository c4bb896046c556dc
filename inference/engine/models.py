"""The networks that are loaded on one device, and how they run.

Networks run on the whole image or by sliding window, in mixed precision on CUDA, and in slower ways that need less
memory if memory runs out. Models load without executing anything that a file brings: TorchScript is interpreted, state
dictionaries are read with `weights_only=True`. The hash of every file is compared with the one that its manifest
recorded.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from inference.contract.manifest import file_sha256
from inference.engine.quantisation import dequantise
from storage.errors import ModelRefused

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]


class TorchEngine:
    """A device and the models that are warm on it."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._warm: dict[str, nn.Module] = {}

    def load_torchscript(self, path: Path, sha256: str) -> nn.Module:
        """Return the model of a TorchScript file.

        Raises ModelRefused if the file changed or holds no TorchScript.
        """
        return self._load(path, sha256, lambda: torch.jit.load(str(path), map_location=self.device))

    def load_state(self, network: Callable[[], nn.Module], path: Path, sha256: str) -> nn.Module:
        """Return `network()` with the weights of a state dictionary, which may be quantised (`quantisation`).

        Raises ModelRefused if they do not fit.
        """

        def build() -> nn.Module:
            model = network()
            state = torch.load(path, map_location=self.device, weights_only=True)
            model.load_state_dict(dequantise(state.get("state_dict", state.get("model", state))))
            return model.to(self.device)

        return self._load(path, sha256, build)

    def _load(self, path: Path, sha256: str, build: Callable[[], nn.Module]) -> nn.Module:
        if sha256 in self._warm:
            return self._warm[sha256]
        if file_sha256(path) != sha256:
            raise ModelRefused(f"{path} changed while the node was running; restart the node to use the new model")
        try:
            model = build().eval()
        except Exception as error:  # torch raises RuntimeError, UnpicklingError, zip errors and more
            first_line = (str(error).splitlines() or [""])[0][:200]
            raise ModelRefused(f"{path} cannot be loaded as a model: {type(error).__name__}: {first_line}") from error
        self._warm[sha256] = model
        return model

    def whole(self, model: nn.Module, image: Tensor) -> Tensor:
        """Run `model` on the whole image at once. (1, C, i, j, k) float32 in and out; the result is on the CPU."""
        return self._run(model, image, (lambda forward, x: forward(x).float().cpu(),))

    def sliding_window(self, model: nn.Module, image: Tensor, roi_size: Sequence[int], overlap: float = 0.5) -> Tensor:
        """Run `model` on overlapping windows of `roi_size` voxels, blended by a Gaussian (MONAI).

        (1, C, i, j, k) float32 in and out; the result is on the CPU. When the memory of the device runs out, the
        windows are stitched in the memory of the CPU.
        """

        def slide(stitch: torch.device) -> Callable[[Forward, Tensor], Tensor]:
            def run(forward: Forward, x: Tensor) -> Tensor:
                result: Any = sliding_window_inference(
                    x, tuple(roi_size), 1, forward, overlap=overlap, mode="gaussian",
                    sw_device=self.device, device=stitch,
                )  # fmt: skip
                return torch.as_tensor(result).float().cpu()

            return run

        return self._run(model, image, (slide(self.device), slide(torch.device("cpu"))))

    def _run(self, model: nn.Module, image: Tensor, ways: Sequence[Callable[[Forward, Tensor], Tensor]]) -> Tensor:
        """Try `ways` in order, the fastest first, and the last one on the CPU if none fits the memory of the device."""
        with torch.inference_mode():
            for way in ways:
                try:
                    result = way(lambda x: self._forward(model, x), image.to(self.device))
                    if bool(torch.isfinite(result).all()):
                        return result
                    log.warning("Half precision overflows, so the model runs in single precision")
                    return way(lambda x: _logits(model(x)), image.to(self.device))
                except torch.cuda.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    log.warning("The memory of the device is too small; trying a way that needs less")
            log.warning("The model runs on the CPU, because no way fits the memory of the device")
            cpu = model.to("cpu")
            try:
                return ways[-1](lambda x: _logits(cpu(x.cpu())), image.cpu())
            finally:
                model.to(self.device)

    def _forward(self, model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            return _logits(model(x))


def _logits(output: Any) -> Tensor:
    """Return the output in full resolution: the first output of a network with deep supervision."""
    tensor: Tensor = output[0] if isinstance(output, list | tuple) else output
    return tensor.float()
