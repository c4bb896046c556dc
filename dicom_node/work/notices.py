"""What notices refer to: reports that there is no result, and notes that withdraw one. Pure decisions, and headers."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydicom import dcmread

from dicom_node.objects.ko import Rejected
from inference.contract.binding import feeds_inputs
from storage.records.instances import Instance, Series
from storage.records.results import ResultObject

MOST_IMAGES = 32


def first_images(series: Sequence[Series], own: Collection[str]) -> list[Path]:
    """The first readable image of each of the first series: enough to say what was looked at. `own` are the SOP
    Instance UIDs of this node's results.
    """
    found = (
        _first_readable([i for i in s.instances if _is_image(i) and i.sop_instance_uid not in own]) for s in series
    )
    return [path for path in found if path is not None][:MOST_IMAGES]


def _is_image(instance: Instance) -> bool:
    return feeds_inputs(instance.sop_class_uid, instance.modality)


def _first_readable(images: Sequence[Instance]) -> Path | None:
    for image in sorted(images, key=lambda i: (i.facts.instance_number or 0, i.sop_instance_uid)):
        try:
            dcmread(image.path, stop_before_pixels=True)
        except Exception:  # noqa: S112 - a parser fails on damaged bytes in many ways; the analysis said so already
            continue
        return image.path
    return None


def holders(held: Mapping[str, Sequence[ResultObject]]) -> Mapping[tuple[Rejected, ...], tuple[str, ...]]:
    """The destinations that hold the very same objects, by what these are; none that holds nothing."""
    groups: dict[tuple[Rejected, ...], list[str]] = {}
    for name, objects in held.items():
        rejected = tuple(Rejected(o.sop_class_uid, o.sop_instance_uid, o.series_instance_uid) for o in objects)
        if rejected:
            groups.setdefault(rejected, []).append(name)
    return {rejected: tuple(names) for rejected, names in groups.items()}
