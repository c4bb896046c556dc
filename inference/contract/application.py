"""The application as the node sees it: inputs in, findings out."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from inference.contract.findings import Algorithm, Findings
from inference.contract.manifest import Manifest
from inference.contract.series_input import SeriesInput

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction done, 0..1."""


class Engine(Protocol):
    """A device and the networks that are loaded on it, as applications use them.

    Networks (`torch.nn.Module`) and images (`torch.Tensor`) are typed loosely here, so that the contract loads no
    torch. `inference.engine.models.TorchEngine` implements it.
    """

    def load_torchscript(self, path: Path, sha256: str) -> Any:
        """Return the network of a TorchScript file. Raises ModelRefused unless it has the hash and can be loaded."""
        ...

    def load_state(self, network: Callable[[], Any], path: Path, sha256: str) -> Any:
        """Return `network()` with the weights of a state dictionary. Raises ModelRefused when they do not fit."""
        ...

    def whole(self, model: Any, image: Any) -> Any:
        """Run `model` on the whole image at once: (1, C, i, j, k) float32 in and out."""
        ...

    def sliding_window(self, model: Any, image: Any, roi_size: Sequence[int], overlap: float = 0.5) -> Any:
        """Run `model` on overlapping windows of `roi_size` voxels: (1, C, i, j, k) float32 in and out."""
        ...


class Application(Protocol):
    """An application that runs a configured model. The constructor does not load the model."""

    manifest: Manifest
    algorithm: Algorithm
    research: bool  # not cleared for diagnosis

    def run(self, inputs: Mapping[str, SeriesInput], engine: Engine, progress: Progress) -> Findings:
        """Compute the findings of one study revision.

        `inputs` has the keys that `input_key` makes: the input's name, followed by "@" and the time point if the series
        is of an earlier study. Raises InputRefused if the images cannot be used, and ModelRefused if the model cannot
        be used, with the reason.
        """
        ...


def load_application(manifest: Manifest) -> Application:
    """Make the application of a manifest: `inference.applications.<id>.application.create(manifest)`."""
    module = import_module(f"inference.applications.{manifest.id}.application")
    application: Application = module.create(manifest)
    return application
