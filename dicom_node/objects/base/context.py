"""The context of a result: the equipment that writes its objects, their UIDs, and the reports they supersede."""

import hashlib
from dataclasses import dataclass, field
from datetime import tzinfo
from importlib.metadata import version
from typing import Any

from dicom_node.objects.base.series_numbers import EDITION_STEP, EDITIONS, FIRST_SERIES, SIDE_STEPS
from inference.contract.findings import Algorithm

NODE_NAME = "dicom-node"  # manufacturer and model if no algorithm made the object


@dataclass(frozen=True)
class ResultReference:
    """A result object of the same study, by its UIDs."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class ObjectContext:
    """The node and the revision of the study that objects are built for.

    Every new UID derives from `uid_seed`, so that a job that was killed and runs again gives the same SOP Instance
    UIDs. `predecessors` are the reports of an earlier result that this one supersedes. `side` is the side of the body
    that the job analyses, "L" or "R"; empty if its images name none, or both. `installation` is the identity of the
    node's installation.

    `label` is the application's name in lists of series, at most LABEL_LENGTH characters, and `first_series` the number
    that those of its series follow. `edition` counts its results of this study and side. `time_zone` is that of
    scanners whose images name none.
    """

    device_name: str
    uid_seed: str
    revision: int = 1
    predecessors: tuple[ResultReference, ...] = ()
    side: str = ""
    installation: str = ""
    label: str = ""
    first_series: int = FIRST_SERIES
    edition: int = 1
    time_zone: tzinfo | None = None
    software_version: str = field(default_factory=lambda: version("dicom-node"))

    def uid(self, role: str) -> str:
        """Return the UID (PS3.5 B.2, 2.25 root) of one role in this result."""
        return derived_uid(self.uid_seed, role)

    def series_number(self, offset: int) -> int:
        """Return the number of a series of this result. `offset` is one of `series_numbers`."""
        block = EDITION_STEP * ((self.edition - 1) % EDITIONS) + SIDE_STEPS.get(self.side, 0)
        return self.first_series + block + offset

    @property
    def node_uid(self) -> str:
        """The device UID of the node itself, where no algorithm made the object."""
        return derived_uid("device", NODE_NAME, self.installation, self.device_name)


def derived_uid(*parts: str) -> str:
    """Return a UID under 2.25 that depends on all the parts and on where each of them ends."""
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def device_uid(algorithm: Algorithm) -> str:
    """Return the device UID of an algorithm. It is another one for other weights."""
    return derived_uid("device", algorithm.name, algorithm.version, algorithm.weights_sha256)


def equipment(algorithm: Algorithm | None, context: ObjectContext) -> dict[str, Any]:
    """Return the equipment that made an object, as arguments of highdicom (PS3.3 C.7.5.1, C.7.5.2).

    Without an algorithm the equipment is the node itself.
    """
    if algorithm is None:
        return {
            "manufacturer": NODE_NAME,
            "manufacturer_model_name": NODE_NAME,
            "software_versions": context.software_version[:64],
        }
    return {
        "manufacturer": algorithm.manufacturer[:64],
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version[:64],
        "device_serial_number": algorithm.weights_sha256[:16],
    }
