"""Kinds of destinations: the name in the configuration and what builds one. A new kind is one line here."""

from collections.abc import Callable
from types import MappingProxyType

from dicom_node.destinations.base import Destination
from dicom_node.destinations.dimse import DimseDestination
from dicom_node.destinations.folder import FolderDestination

KINDS: MappingProxyType[str, Callable[..., Destination]] = MappingProxyType(
    {"dimse": DimseDestination, "folder": FolderDestination}
)
