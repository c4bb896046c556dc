"""The first images of the series of a study, which stand for the series in a report or a rejection note.

Images of the modalities that applications take come first. A study without them is represented by its other images, of
whatever storage class.
"""

from collections.abc import Callable, Collection, Sequence

from inference.headers.images import counts_as_image, feeds_inputs
from inference.headers.reading import read_beginning
from storage.blobs import Blob
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

    def find(self, job: Job) -> Sequence[Blob]:
        """Return the first readable image of each series that feeds the job.

        If the job names no series, or none that can be read, take every series of the study. Raises InputRefused if no
        image of the study can be read, and OSError if that is due to the machine.
        """
        series = self._instances.series(job.study_instance_uid)
        own = {result.sop_instance_uid for result in self._results.objects(job.study_instance_uid)}
        inputs = [s for s in series if s.series_instance_uid in job.inputs.values()]
        search = _Search(own)
        found = search.images(inputs, _feeds_inputs) or search.images(series, _feeds_inputs)
        found = found or search.images(series, _counts_as_image)
        if not found and search.trouble is not None:
            raise search.trouble
        if not found:
            raise InputRefused("no image of the study can be read")
        return found

    def state_one_patient(self, job: Job) -> bool:
        """Return False if the instances of the job's study state different patients."""
        return self._instances.identities(job.study_instance_uid).conflict() is None


def _feeds_inputs(instance: Instance) -> bool:
    return feeds_inputs(instance.sop_class_uid, instance.modality)


def _counts_as_image(instance: Instance) -> bool:
    return counts_as_image(instance.sop_class_uid)


class _Search:
    """A search that passes over the SOP Instance UIDs of `own`. `trouble` is an I/O error that it met."""

    def __init__(self, own: Collection[str]) -> None:
        self._own = own
        self.trouble: OSError | None = None

    def images(self, series: Sequence[Series], takes: Callable[[Instance], bool]) -> list[Blob]:
        """Return the first readable image of each series, at most MOST_IMAGES."""
        found = (
            self._first([i for i in s.instances if takes(i) and i.sop_instance_uid not in self._own]) for s in series
        )
        return [blob for blob in found if blob is not None][:MOST_IMAGES]

    def _first(self, images: Sequence[Instance]) -> Blob | None:
        for image in sorted(images, key=lambda i: (i.facts.instance_number or 0, i.sop_instance_uid)):
            try:
                header = read_beginning(image.blob).header
            except OSError as error:
                self.trouble = error
                continue
            if all(keyword in header for keyword in ("SOPInstanceUID", "Rows", "Columns")):
                return image.blob
        return None
