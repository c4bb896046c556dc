"""The first images of the series of a study, which stand for the series in a report or a rejection note."""

from collections.abc import Collection, Sequence
from pathlib import Path

from pydicom import dcmread

from inference.headers.images import feeds_inputs
from storage.errors import InputRefused
from storage.log.instances import InstanceStore
from storage.records.instances import Instance, Series
from storage.records.jobs import Job
from storage.tables.results import Results

MOST_IMAGES = 32


class FirstImages:
    """A search for the first images of a job's study. It passes over results of this node."""

    def __init__(self, instances: InstanceStore, results: Results) -> None:
        self._instances = instances
        self._results = results

    def find(self, job: Job) -> Sequence[Path]:
        """Return the first readable image of each series that feeds the job.

        If the job names no series, or none that can be read, take every series of the study. Raises InputRefused if no
        image of the study can be read.
        """
        series = self._instances.series(job.study_instance_uid)
        own = {result.sop_instance_uid for result in self._results.objects(job.study_instance_uid)}
        inputs = [s for s in series if s.series_instance_uid in job.inputs.values()]
        found = _first_images(inputs, own) or _first_images(series, own)
        if not found:
            raise InputRefused("no image of the study can be read")
        return found


def _first_images(series: Sequence[Series], own: Collection[str]) -> list[Path]:
    """Return the first readable image of each series, at most MOST_IMAGES. `own` are SOP Instance UIDs to pass over."""
    found = (
        _first_readable([i for i in s.instances if _feeds_inputs(i) and i.sop_instance_uid not in own]) for s in series
    )
    return [path for path in found if path is not None][:MOST_IMAGES]


def _feeds_inputs(instance: Instance) -> bool:
    return feeds_inputs(instance.sop_class_uid, instance.modality)


def _first_readable(images: Sequence[Instance]) -> Path | None:
    for image in sorted(images, key=lambda i: (i.facts.instance_number or 0, i.sop_instance_uid)):
        try:
            dcmread(image.path, stop_before_pixels=True)
        except Exception:  # noqa: S112 - parsers fail in many ways, and the analysis has reported the damage already
            continue
        return image.path
    return None
