"""The series that feed the inputs of an application."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path


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
