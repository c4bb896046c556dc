"""The series that feed the inputs of an application, and the one place that reads their volumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from inference.contract.inputs import SIGNAL_KINDS, InputRule, volume_for
from inference.headers.image_content import COMPONENT, IMAGINARY, PHASE
from inference.volumes.reading import read_volume, read_volumes
from inference.volumes.volume import Volume
from storage.blobs import Blob
from storage.errors import InputRefused


@dataclass(frozen=True)
class SeriesInput:
    """The series bound to one input of the application: its instances, in no particular order.

    `time_point` is 0 for the study that is analysed, and counts earlier studies of the same patient from 1, the oldest
    first. `acquired` is None if the images do not state it.
    """

    name: str
    series_instance_uid: str
    blobs: tuple[Blob, ...]
    time_point: int = 0
    acquired: date | None = None


def read_input(series: SeriesInput, rules: Sequence[InputRule]) -> tuple[Volume, ...]:
    """Read the volumes that the application's rule for this input asks for.

    With `volumes = "all"` these are all volumes of the series, in the order of acquisition. Otherwise it is exactly
    one. If the series holds several, it is the one that `select` means, or the only one that shows what `kind` names:
    the magnitude beside a phase, or the ADC beside the images that it was computed from. Raises InputRefused if the
    series makes no such volume, or shows no signal where `kind` asks for one, and KeyError if no rule has the name of
    the input.
    """
    rule = {rule.name: rule for rule in rules}[series.name]
    if rule.volumes == "all":
        return read_volumes(series.blobs)
    volume = read_volume(series.blobs, partial(volume_for, rule))
    component = volume.told_apart.get(COMPONENT)
    if component in (PHASE, IMAGINARY) and rule.kind and SIGNAL_KINDS.issuperset(rule.kind):
        raise InputRefused(f"the images of the series show the {component}, and {rule.name} needs a signal")
    return (volume,)
