"""Series are recognised and bound from kept headers as they are from whole ones, and the list has what is read."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom.dsutils import split_dataset

from dicom_node.read.series_names import series_label
from dicom_node.read.visits import acquisition_date, visit_of
from inference.contract.study_rule import StudyValues, stated_values
from inference.headers.decoding import HeaderDecoder
from inference.headers.images import images_among
from inference.headers.private import PrivateElements
from inference.series.kinds import Kind
from inference.series.recogniser import recognise_headers
from inference.series.site_table import SiteRule
from storage.log.headers import kept_elements
from storage.log.headers.instance_reader import InstanceReader
from storage.log.headers.kept_elements import FUNCTIONAL_GROUPS, KEPT_ELEMENTS, PRIVATE_BLOCKS
from storage.log.headers.kept_header import decode_kept_header, encoded_elements, is_enough

PATIENT = frozenset(map(Tag, ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")))
ONE_WEEK = 7.5 / 365.25


def series_of(*folders: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    found: defaultdict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        try:
            ds = dcmread(path, stop_before_pixels=True)
            found[ds.SeriesInstanceUID].append((path, ds))
        except Exception:  # a folder, no DICOM file, or one that is broken on purpose
            continue
    return found


def kept_of(path: Path) -> bytes:
    meta, offset = split_dataset(path)
    reader = InstanceReader(str(meta.TransferSyntaxUID))
    reader.update(path.read_bytes()[offset:], final=True)
    return reader.kept_header()


@pytest.fixture(scope="module")
def series(test_data: Path) -> list[tuple[list[Dataset], list[bytes]]]:
    """The whole and the kept headers of every series that has no functional groups."""
    found = series_of(test_data / "mr", test_data.parent / "cases/mr")
    pairs = [([ds for _, ds in images], [kept_of(path) for path, _ in images]) for images in found.values()]
    return [pair for pair in pairs if FUNCTIONAL_GROUPS.isdisjoint(tag for ds in pair[0] for tag in ds.keys())]  # noqa: SIM118


def without_age(values: StudyValues) -> dict[str, Any]:
    return {key: value for key, value in vars(values).items() if key != "age"}


def seen(headers: Sequence[Dataset]) -> list[Any]:
    """Everything that is read from headers between reception and the worker."""
    values = stated_values(headers)
    return [
        str(recognise_headers(headers)),  # as text, because NaN differs from itself
        images_among(headers),
        without_age(values),
        [acquisition_date(ds) for ds in headers],
        [(visit.day, visit.time) for visit in map(visit_of, headers)],
        [series_label(ds.get("SeriesNumber"), str(ds.get("SeriesDescription") or "")) for ds in headers],
    ]


def test_kept_headers_say_what_whole_ones_say(series: list[tuple[list[Dataset], list[bytes]]]) -> None:
    assert len(series) > 40
    for whole, kept in series:
        name = str(whole[0].get("SeriesDescription"))
        assert all(map(is_enough, kept)), name
        decoded = [decode_kept_header(one) for one in kept]
        decoder = HeaderDecoder()
        together = [decoder.decode(*encoded_elements(one)) for one in kept]
        assert together == decoded
        assert seen(decoded) == seen(together) == seen(whole), name
        ages = [sorted(stated_values(headers).age) for headers in (decoded, whole)]
        assert ages[0] == pytest.approx(ages[1], abs=ONE_WEEK), name


def test_kept_headers_are_small(series: list[tuple[list[Dataset], list[bytes]]]) -> None:
    sizes = sorted(len(one) for _, kept in series for one in kept)
    assert sizes[len(sizes) // 2] < 1500
    assert sizes[-1] < 6000  # a tiled image of UIH


@pytest.mark.parametrize(
    "dropped",
    ["ImageType", "EchoTime", "ScanningSequence", "SeriesDescription", "StudyDescription", "PixelSpacing", "StudyDate"],
)
def test_without_an_element_of_the_list_they_do_not(
    series: list[tuple[list[Dataset], list[bytes]]], dropped: str
) -> None:
    def differs(whole: list[Dataset], kept: list[bytes]) -> bool:
        decoded = [decode_kept_header(one) for one in kept]
        for ds in decoded:
            ds.pop(Tag(dropped), None)
        return seen(decoded) != seen(whole)

    assert any(differs(*pair) for pair in series)


# -- the list ----------------------------------------------------------------------------------------------------------


class Asked(Dataset):
    """A dataset that notes which of its elements anyone asked for, absent ones too."""

    noted: ClassVar[set[int]] = set()

    def _note(self, key: Any) -> None:
        try:
            self.noted.add(int(Tag(key)))
        except Exception:  # an attribute of Python
            return

    def get(self, key: Any, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __getattr__(self, name: str) -> Any:
        self._note(name)
        return super().__getattr__(name)

    def __contains__(self, key: Any) -> bool:
        self._note(key)
        return super().__contains__(key)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            self._note(key)
        return super().__getitem__(key)


def rare_studies() -> list[list[Dataset]]:
    """Headers whose readers ask for what those of the test data do not need."""
    ct, epi = Dataset(), Dataset()
    for ds in (ct, epi):
        ds.SOPClassUID, ds.Rows, ds.Columns = "1.2.840.10008.5.1.4.1.1.2", 1, 1
    ct.Modality, ct.ContrastBolusAgent, ct.SteadyStatePulseSequence = "CT", "Gd", "FREE_PRECESSION"
    epi.Modality, epi.PulseSequenceName = "MR", "epi_pepolar"
    return [[ct], [epi]]


def test_the_list_has_what_is_read_and_nothing_else(
    series: list[tuple[list[Dataset], list[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    private: set[tuple[int, bytes, int]] = set()
    value = PrivateElements.value

    def noting(self: PrivateElements, group: int, creator: str, element: int, vendor: str = "") -> Any:
        private.add((group, creator.encode(), element))
        return value(self, group, creator, element, vendor)

    monkeypatch.setattr(PrivateElements, "value", noting)
    Asked.noted.clear()
    for headers in [*(whole[:4] for whole, _ in series), *rare_studies()]:
        for ds in headers:
            list(ds)  # pydicom asks for Pixel Representation where it converts a value for the first time
        asked = [Asked(ds) for ds in headers]
        for ds in asked:
            ds.set_original_encoding(True, True, "iso8859")
        seen(asked)
        for key in ("station_name", "protocol_name", "series_description"):
            recognise_headers(asked, (SiteRule(Kind.CT, **{key: "no such"}),))
    public = {tag for tag in Asked.noted if not tag & 0x10000}
    assert public - KEPT_ELEMENTS - FUNCTIONAL_GROUPS - PATIENT == set()
    others = {*kept_elements._COMPARISON, Tag("SpecificCharacterSet"), Tag("StudyInstanceUID")}
    assert KEPT_ELEMENTS - public == others
    assert private == {(block.group, block.creator, one) for block in PRIVATE_BLOCKS for one in block.elements}
