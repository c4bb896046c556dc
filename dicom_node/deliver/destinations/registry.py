"""The kinds of destinations. A further kind is a module in this folder and a line of DESTINATION_KINDS."""

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from dicom_node.deliver.destinations.dicomweb import DicomwebSettings
from dicom_node.deliver.destinations.dimse import DimseSettings
from dicom_node.deliver.destinations.folder import FolderSettings
from dicom_node.deliver.destinations.settings import DestinationSettings

DESTINATION_KINDS: dict[str, type[DestinationSettings]] = {
    "dimse": DimseSettings,
    "dicomweb": DicomwebSettings,
    "folder": FolderSettings,
}


def destination_kind(entry: Any) -> str:
    """Return the `kind` of an entry, which is a table of the file or a settings object; "dimse" if it names none."""
    if isinstance(entry, dict):
        return str(entry.get("kind", "dimse"))
    return str(getattr(entry, "kind", "dimse"))


class _ByKind:
    """A marker by which pydantic reads an entry with the settings class of its kind."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {kind: handler.generate_schema(settings) for kind, settings in DESTINATION_KINDS.items()}
        return core_schema.tagged_union_schema(choices, destination_kind)


AnyDestination = Annotated[DestinationSettings, _ByKind()]
