"""What an application is to the node: inputs in, findings out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Protocol

from inference.contract.findings import Algorithm, Findings
from inference.contract.manifest import Manifest
from inference.engine.engine import Engine

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction done, 0..1."""


@dataclass(frozen=True)
class SeriesInput:
    """The series bound to one input of the application: its files, in no particular order.

    `time_point` is 0 for the study that is analysed, and counts earlier studies of the same patient from 1, the oldest
    first. `acquired` is None where the images do not say it.
    """

    name: str
    series_instance_uid: str
    paths: tuple[Path, ...]
    time_point: int = 0
    acquired: date | None = None


class Application(Protocol):
    """One that runs a configured model. It is made without loading the model."""

    manifest: Manifest
    algorithm: Algorithm
    research: bool  # not cleared for diagnosis

    def run(self, inputs: Mapping[str, SeriesInput], engine: Engine, progress: Progress) -> Findings:
        """Computes the findings of one study revision. `inputs` has the keys that `input_key` makes:
        the input's name, followed by "@" and the time point where the series is of an earlier study.

        Raises InputRefused when the images cannot be used, ModelRefused when the model cannot; both say why.
        """
        ...


def load_application(manifest: Manifest) -> Application:
    """The application that a manifest describes: `inference.applications.<id>.application.create(manifest)`."""
    module = import_module(f"inference.applications.{manifest.id}.application")
    application: Application = module.create(manifest)
    return application
