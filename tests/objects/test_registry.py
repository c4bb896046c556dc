"""The table of result objects is whole: a line for each kind, and for each line a module that makes it."""

from importlib import import_module

import pytest
from pydicom.uid import SegmentationStorage

from dicom_node.objects.registry import OBJECT_TYPES, REQUESTABLE, WRITTEN_SOP_CLASSES, stands_for
from storage.records.results import ObjectKind


def test_every_kind_has_a_line_in_the_order_of_delivery() -> None:
    assert list(OBJECT_TYPES) == list(ObjectKind)
    assert SegmentationStorage in WRITTEN_SOP_CLASSES


@pytest.mark.parametrize("kind", [kind for kind, one in OBJECT_TYPES.items() if one.module is not None])
def test_every_line_names_a_module_that_makes_it(kind: ObjectKind) -> None:
    assert callable(import_module(f"dicom_node.objects.{OBJECT_TYPES[kind].module}").create)


def test_every_kind_is_asked_for_or_stands_in_for_one_that_is() -> None:
    assert REQUESTABLE == ("SEG", "PM", "RTSTRUCT", "SC", "SR", "KO")
    others = [kind for kind in ObjectKind if kind not in REQUESTABLE and not stands_for(kind, REQUESTABLE)]
    assert others == [ObjectKind.REJECTION]  # it is made for a withdrawal
