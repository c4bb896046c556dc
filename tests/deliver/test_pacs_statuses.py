"""PACSs that lose answers, change what they store and warn, over C-STORE; and folders in which a file is already."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

from dicom_node.deliver.destinations.dimse import DimseDestination
from dicom_node.deliver.destinations.folder import FolderDestination
from storage.records.problems import ProblemKind
from tests.deliver.way import KINDS, Way, errors

# -- over C-STORE ------------------------------------------------------------------------------------------------------


class Pacs:
    """An SCP of storage and query. `answers` are what it does in turn: a status, or "lose" for no answer at all."""

    def __init__(self, *answers: Any, queries: bool = True) -> None:
        self.answers = list(answers)
        self.kept: list[Dataset] = []
        ae = AE(ae_title="PACS")
        for sop_class_uid in {sop_class for sop_class, _ in KINDS.values()}:
            ae.add_supported_context(sop_class_uid, ExplicitVRLittleEndian)
        if queries:
            ae.add_supported_context(Find)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    @property
    def kinds(self) -> list[str]:
        return [str(ds.ImageComments) for ds in self.kept]

    def _store(self, event: Any) -> Dataset:
        ds = event.dataset
        what = self.answers.pop(0) if self.answers else 0x0000
        status = Dataset()
        status.Status = 0x0000
        match what:
            case "lose":
                self.kept.append(ds)
                event.assoc.abort()
            case "study":
                ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.9.2", "1.9.3"
                self.kept.append(ds)
            case 0xB000:
                ds.PatientID = "ANOTHER"
                self.kept.append(ds)
                status.Status = what
                status.OffendingElement = [0x00100020]
                status.ErrorComment = "SECRET^PERSON"
            case int():
                status.Status = what
                if what < 0x0100 or (what >= 0xB000 and what < 0xC000):
                    self.kept.append(ds)
            case _:
                self.kept.append(ds)
        return status

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        keys = {k: query.get(k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID") if query.get(k)}
        for ds in self.kept:
            if all(ds.get(key) == value for key, value in keys.items()):
                match = Dataset()
                match.QueryRetrieveLevel = "IMAGE"
                for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                    setattr(match, keyword, ds.get(keyword))
                yield 0xFF00, match


@pytest.fixture
def pacs(way: Way) -> Iterator[Callable[..., tuple[DimseDestination, Pacs]]]:
    started: list[Pacs] = []

    def start(*answers: Any, **kwargs: Any) -> tuple[DimseDestination, Pacs]:
        started.append(Pacs(*answers, **kwargs))
        return DimseDestination(way.name, "NODE", "PACS", "127.0.0.1", started[-1].port, 2.0), started[-1]

    yield start
    for one in started:
        one.server.shutdown()


Start = Callable[..., tuple[DimseDestination, Pacs]]


def test_a_lost_response_is_followed_by_a_question_and_not_by_the_object(way: Way, pacs: Start) -> None:
    destination, there = pacs("lose")
    way.send(destination, tries=1)
    way.confirm(destination)
    assert way.states == {"SEG": "COMMITTED", "SR": "COMMITTED"}
    assert there.kinds == ["SEG", "SR"]


def test_a_duplicate_counts_only_after_a_lost_response(way: Way, pacs: Start, caplog: pytest.LogCaptureFixture) -> None:
    destination, there = pacs("lose", 0x0111, queries=False)
    way.send(destination)
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert there.kinds == ["SEG", "SR"]
    assert not errors(caplog, "duplicate_found")
    assert not way.problems()


def test_a_duplicate_at_the_first_try_is_an_alarm(way: Way, pacs: Start, caplog: pytest.LogCaptureFixture) -> None:
    destination, there = pacs(0x0111)
    way.send(destination)
    assert way.states == {"SEG": "FAILED", "SR": "REPLACED", "SR-REGIONS": "SENT"}
    assert there.kinds == ["SR-REGIONS"]
    assert len(errors(caplog, "duplicate_found")) == 1
    assert list(way.problems()) == ["unexpected_duplicate"]


def test_a_pacs_that_answers_a_failure_and_stores_is_asked_before_anything_else_is_sent(way: Way, pacs: Start) -> None:
    destination, there = pacs()
    there.kept.append(dcmread(way.files["SEG"]))
    there.answers = [0xC001]
    way.send(destination)
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert there.kinds == ["SEG", "SR"]


def test_coercion_is_told_and_nothing_is_sent_again(way: Way, pacs: Start) -> None:
    destination, there = pacs(0xB000, "study")
    way.send(destination)
    way.confirm(destination)
    assert way.states == {"SEG": "COMMITTED", "SR": "COMMITTED"}
    assert there.kinds == ["SEG", "SR"]
    assert way.warnings["SEG"] == "warning 0xB000, coercion of data elements; it names PatientID"
    assert way.warnings["SR"] == f"kept there as instance {way.uids['SR']}, series 1.9.3, study 1.9.2"
    assert list(way.problems()) == ["coerced"]
    assert "SECRET" not in json.dumps(way.node.texts(way.study))


def test_discarded_elements_are_an_alarm(way: Way, pacs: Start, caplog: pytest.LogCaptureFixture) -> None:
    destination, _ = pacs(0xB006)
    way.send(destination)
    way.confirm(destination)
    assert way.states == {"SEG": "COMMITTED", "SR": "COMMITTED"}
    assert way.warnings == {"SEG": "warning 0xB006, elements discarded"}
    assert len(errors(caplog, "elements_discarded")) == 1
    assert list(way.problems()) == ["elements_discarded"]


# -- a folder ----------------------------------------------------------------------------------------------------------


def test_a_file_of_somebody_else_is_not_overwritten(way: Way, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inbox = FolderDestination(way.name, tmp_path / "inbox")
    target = inbox.path / way.study / way.series["SEG"] / f"{way.uids['SEG']}.dcm"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"of somebody else")
    way.send(inbox)
    assert way.states == {"SEG": "FAILED", "SR": "REPLACED", "SR-REGIONS": "SENT"}
    assert target.read_bytes() == b"of somebody else"
    assert len(errors(caplog, "duplicate_found")) == 1
    assert ProblemKind.UNEXPECTED_DUPLICATE in way.problems()
