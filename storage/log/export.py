"""The export of a study: its instances as they were received, as Part 10 files in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import Permanent, StorageFull
from storage.log.files import copy_durable, make_folder
from storage.machine import is_trouble_of_the_machine
from storage.records.instances import Instance


@dataclass(frozen=True)
class Exported:
    """The number of files and bytes that were written, and the instances that could not be, with the reason."""

    instances: int
    size: int
    failures: tuple[tuple[str, str], ...] = ()


def export_instances(instances: Sequence[Instance], folder: Path) -> Exported:
    """Write each instance as `<series>/<SOP instance>.dcm` below `folder`, durably and byte for byte.

    What is damaged is not written. Raises Permanent if the folder is not empty or cannot be written, and StorageFull.
    """
    _make(folder)
    size = 0
    failures = []
    for instance in instances:
        blob = instance.blob
        path = folder / instance.series_instance_uid / f"{instance.sop_instance_uid}.dcm"
        try:
            if not blob.is_intact():
                failures.append((instance.sop_instance_uid, "its bytes are not those that were received"))
                continue
            copy_durable(blob, path)
        except FileNotFoundError:
            failures.append((instance.sop_instance_uid, "its bytes are missing"))
        except StorageFull:
            raise
        except (OSError, Permanent) as error:
            if is_trouble_of_the_machine(error):
                raise Permanent(f"{folder} cannot be written") from None
            failures.append((instance.sop_instance_uid, "its bytes cannot be read"))
        else:
            size += blob.size
    return Exported(len(instances) - len(failures), size, tuple(failures))


def _make(folder: Path) -> None:
    try:
        make_folder(folder.absolute())
        if any(folder.iterdir()):
            raise Permanent(f"{folder} is not empty; name a new folder")
    except OSError as error:
        raise Permanent(f"{folder} cannot be made ({error.strerror}); name another folder") from None
