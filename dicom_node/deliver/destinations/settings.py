"""The settings that every kind of destination has, and the methods that a kind implements."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from dicom_node.deliver.destinations.interface import ConfirmingDestination
from dicom_node.objects.profiles import ObjectProfile, SegmentationForm
from dicom_node.objects.registry import REQUESTABLE
from dicom_node.runtime.configuration import Section
from storage.records.results import ObjectKind


class _Requestable:
    """A marker by which pydantic takes only names of kinds of objects that a destination can ask for."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(map(str, REQUESTABLE)))


_RequestedKind = Annotated[str, _Requestable()]


class DestinationSettings(Section):
    """A `[[destinations]]` entry: a name, and which objects the destination gets. Each kind adds its own keys."""

    name: str = Field(min_length=1)
    objects: tuple[_RequestedKind, ...] = Field(("SEG", "PM", "SR"), min_length=1)
    segmentation: Literal["binary", "fractional", "labelmap"] = "binary"
    omit_empty_frames: bool = True
    withdraw_superseded: bool = False
    tumour_as_gtv: bool = False
    confirm: Literal["auto", "none"] = "auto"

    @property
    def profile(self) -> ObjectProfile:
        return ObjectProfile(
            segmentation=SegmentationForm(self.segmentation.upper()),
            omits_empty_frames=self.omit_empty_frames,
            objects=frozenset(map(ObjectKind, self.objects)),
            withdraws_superseded=self.withdraw_superseded,
            names_gtv=self.tumour_as_gtv,
        )

    @property
    @abstractmethod
    def address(self) -> str:
        """The address that results go to, as text to show to the operator. It holds no secret."""

    @abstractmethod
    def build(self, calling_ae_title: str, timeout: float) -> ConfirmingDestination:
        """Return the destination. `timeout` (seconds) limits connecting, and each silence of the other side."""

    def local_problems(self) -> list[str]:
        """List what the destination needs and this machine lacks, without asking another machine."""
        return []

    @classmethod
    def contradictions(cls, key: str, entry: Mapping[str, Any]) -> Iterator[str]:
        """Yield a mistake for keys of `entry` that need one another, or exclude one another.

        `entry` is the table as written, which may hold other mistakes; `key` is where it stands.
        """
        yield from ()
