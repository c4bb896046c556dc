"""Archives that lose answers, give odd ones, change what they store, warn, or are away, over STOW-RS."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom.dataset import Dataset

from dicom_node.deliver.destinations.dicomweb import BasicAuth, DicomwebDestination
from dicom_node.deliver.destinations.dimse import DimseDestination
from dicom_node.deliver.destinations.folder import FolderDestination
from dicom_node.deliver.dispatcher import Dispatcher
from dicom_node.demo.pacs.ports import free_port
from dicom_node.runtime.backoff import Backoff
from storage.tables.database import schema
from tests.deliver.archive import (
    Archive,
    Kept,
    Step,
    answer,
    refuse,
    store,
    store_and,
    store_and_tell,
    told,
)
from tests.deliver.way import NUMBERS, Way, errors
from tests.deliver.web import Answer, Asked, Scripted, orthanc_web
from tests.instances import MakeFile
from tests.storage.node import NOW, Node

HTML = Answer(409, b"<html>SECRET^PERSON is there already</html>", "text/html")
ODD = Answer(409, b'{"message": "SECRET^PERSON is there already"}')
WORDS = (HTML, ODD, Answer(409), 0x0110, 0xB00E, 0x0111)  # answers that say, or may say, that it exists already


# -- an answer that was lost, and "it exists already" ------------------------------------------------------------------


@pytest.mark.parametrize("then", WORDS, ids=range(len(WORDS)))
@pytest.mark.parametrize("queries", [True, False])
def test_what_exists_after_a_lost_answer_is_stored_once(
    way: Way, archive: Callable[..., Archive], then: Answer | int, queries: bool
) -> None:
    second = answer(then) if isinstance(then, Answer) else refuse(then)
    there = archive(store_and(None), second, queries=queries, blind_until=2)
    way.send(way.web(there))
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert there.kinds == ["SEG", "SR"]
    assert not any("SECRET" in text for text in way.texts("SEG"))
    assert way.problems() == {}
    assert there.stored == 3


@pytest.mark.parametrize("first", WORDS, ids=range(len(WORDS)))
def test_what_exists_at_the_first_try_is_somebody_elses(
    way: Way, archive: Callable[..., Archive], caplog: pytest.LogCaptureFixture, first: Answer | int
) -> None:
    there = archive(answer(first) if isinstance(first, Answer) else refuse(first))
    there.keep(way.kept(), kind="of another")
    way.send(way.web(there))
    assert way.states["SEG"] == "FAILED"
    assert way.states["SR"] == "REPLACED"  # it refers to a SEG which is not the one that is there
    assert there.kinds == ["of another", "SR-REGIONS"]  # and nothing beside the SEG
    assert list(way.problems()) == ["unexpected_duplicate"]
    assert len(errors(caplog, "duplicate_found")) == 1
    assert "SECRET" not in caplog.text + "".join(way.texts("SEG"))
    (seg,) = (d for d in way.node.deliveries.list(study=way.study) if d.object.kind == "SEG")
    assert way.node.deliveries.retry(seg.id)
    assert way.problems() == {}


def test_a_result_that_the_node_has_forgotten_is_not_sent_beside_itself(
    way: Way, archive: Callable[..., Archive], caplog: pytest.LogCaptureFixture
) -> None:
    there = archive(refuse(0xB00E))
    for kind in ("SEG", "SR"):  # sent before the database was lost
        there.keep(way.kept(kind))
    way.send(way.web(there))
    assert way.states == {"SEG": "FAILED", "SR": "FAILED"}
    assert (there.kinds, there.stored) == (["SEG", "SR"], 1)
    assert len(errors(caplog, "duplicate_found")) == 2


def test_a_refusal_of_what_is_not_there_is_a_refusal(way: Way, archive: Callable[..., Archive]) -> None:
    there = archive(answer(HTML))
    way.send(way.web(there))
    assert way.states == {"SEG": "REPLACED", "SR": "REPLACED", "RTSTRUCT": "SENT", "SR-REGIONS": "SENT"}
    assert there.kinds == ["RTSTRUCT", "SR-REGIONS"]


def test_orthanc_holds_each_object_once_though_its_answers_are_lost(way: Way, tmp_path: Path) -> None:
    with orthanc_web(tmp_path / "orthanc") as orthanc:
        lost: list[str] = []

        def forward(asked: Asked) -> Answer | None:
            url = f"http://127.0.0.1:{orthanc.port}{asked.path.replace('/web/', '/dicom-web/', 1)}"
            named = {k: v for k, v in asked.headers.items() if k in ("content-type", "accept", "authorization")}
            reply = requests.request(asked.method, url, data=asked.body or None, headers=named, timeout=10)
            if asked.method == "POST":
                lost.append(asked.path)
                return None
            return Answer(reply.status_code, reply.content, reply.headers.get("Content-Type", ""))

        between = Scripted(forward)
        (tmp_path / "secret").write_text(orthanc.password, encoding="utf-8")
        auth = BasicAuth(orthanc.username, tmp_path / "secret")
        archive = DicomwebDestination(way.name, between.url, 10, auth)
        way.send(archive, tries=1)
        way.confirm(archive)
        between.close()
        assert way.states == {"SEG": "COMMITTED", "SR": "COMMITTED"}
        assert len(lost) == 2
        assert all(orthanc.held(way.uids[kind]) is not None for kind in ("SEG", "SR"))
        assert all(orthanc.held(way.uids[kind]) is None for kind in ("RTSTRUCT", "SR-REGIONS"))


# -- stored, and an answer that cannot be read -------------------------------------------------------------------------


def as_multipart(response: Any) -> Answer:
    body = b"--b\r\nContent-Type: application/dicom+json\r\n\r\n" + json.dumps(response).encode() + b"\r\n--b--\r\n"
    return Answer(200, body, 'multipart/related; type="application/dicom+json"; boundary=b')


def as_list(response: Any) -> Answer:
    return Answer(200, json.dumps([response]).encode())


@pytest.mark.parametrize("queries", [True, False])
@pytest.mark.parametrize("form", [as_multipart, as_list])
def test_an_answer_in_another_form_is_read(
    way: Way, archive: Callable[..., Archive], form: Callable[[Any], Answer], queries: bool
) -> None:
    there = archive(store_and_tell(form), store_and_tell(form), queries=queries)
    way.send(way.web(there))
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert there.kinds == ["SEG", "SR"]
    assert there.stored == 2
    assert way.texts("SEG") == ["arrived"]


@pytest.mark.parametrize(
    "reply",
    [
        Answer(200),
        Answer(204),
        Answer(200, b"{}"),
        Answer(200, b"[]"),
        Answer(200, b"<html>stored</html>", "text/html"),
        Answer(200, b"not json"),
        Answer(200, b"[[1]]"),
        Answer(200, b'{"00081199": {"vr": "SQ", "Value": [{}]}}', cut=True),
        Answer(200, b"--b", "multipart/related; boundary=b"),
        Answer(500),
        Answer(504),
        None,
    ],
)
def test_a_stored_object_whose_answer_says_nothing_is_found_by_a_query(
    way: Way, archive: Callable[..., Archive], reply: Answer | None
) -> None:
    there = archive(store_and(reply), store_and(reply))
    way.send(way.web(there), tries=1)
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert there.kinds == ["SEG", "SR"]
    assert there.stored == 2  # each was sent once
    (text,) = way.texts("SEG")
    assert text.startswith("arrived: found there by a query, although the last try ended so: ")


def test_a_slow_answer_is_not_waited_for_and_nothing_is_sent_twice(way: Way, archive: Callable[..., Archive]) -> None:
    release = threading.Event()

    def slow(there: Archive, kept: Kept) -> Answer:
        there.keep(kept)
        release.wait(5)
        return store(there, kept)

    there = archive(slow)
    way.send(way.web(there, timeout=0.5), tries=1)
    release.set()
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert there.kinds == ["SEG", "SR"]


def test_an_object_that_comes_late_is_found_before_it_would_be_sent_again(
    way: Way, archive: Callable[..., Archive]
) -> None:
    late: list[Kept] = []

    def later(there: Archive, kept: Kept) -> None:
        late.append(kept)

    there = archive(later)
    dispatcher = way.dispatcher()
    assert not dispatcher.deliver_one(way.web(there))
    assert way.states["SEG"] == "RETRYING"
    there.keep(late[0])
    assert dispatcher.deliver_one(way.web(there))
    assert way.states["SEG"] == "SENT"
    assert (there.kinds, there.stored) == (["SEG"], 1)


def test_the_report_follows_a_seg_that_never_gets_a_readable_answer(way: Way, archive: Callable[..., Archive]) -> None:
    there = archive(*[answer(Answer(200, b"<html>log in</html>", "text/html"))] * 3)
    way.send(way.web(there), attempts=3)
    assert way.states == {"SEG": "FAILED", "SR": "REPLACED", "SR-REGIONS": "SENT"}
    assert there.kinds == ["SR-REGIONS"]
    assert way.texts("SR-REGIONS") == ["arrived, without SEG (FAILED)"]


def test_nothing_is_sent_in_place_of_a_seg_that_may_be_there_when_its_report_is_refused(
    way: Way, archive: Callable[..., Archive]
) -> None:
    there = archive(*[answer(Answer(200, b"<html>log in</html>", "text/html"))] * 3, refuse(0xC000))
    way.send(way.web(there), attempts=3)
    assert way.states["SEG"] == way.states["SR-REGIONS"] == "FAILED"
    assert "RTSTRUCT" not in way.states
    assert there.kinds == []


def test_a_destination_that_answers_no_queries_for_now_is_not_away(way: Way, archive: Callable[..., Archive]) -> None:
    there = archive(answer(Answer(200, b"<html>log in</html>", "text/html")))
    there._query = lambda asked: Answer(503)
    way.send(way.web(there), tries=1)
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert way.texts("SEG")[0].startswith("not delivered, will be tried again: ")


@pytest.mark.parametrize("kind", ["dimse", "web", "folder"])
def test_a_file_that_cannot_be_read_now_is_tried_again_and_never_replaced(
    way: Way, archive: Callable[..., Archive], tmp_path: Path, kind: str
) -> None:
    there: Any = {
        "dimse": DimseDestination(way.name, "NODE", "PACS", "127.0.0.1", free_port(), 1.0),
        "web": way.web(archive()),
        "folder": FolderDestination(way.name, tmp_path),
    }[kind]
    seg, away = way.files["SEG"], tmp_path / "away"
    seg.rename(away)
    dispatcher = way.dispatcher(attempts=2)
    assert dispatcher.deliver_one(there)
    assert way.states == {"SEG": "RETRYING", "SR": "QUEUED"}
    assert "cannot be read" in way.texts("SEG")[-1]
    if kind == "dimse":
        assert dispatcher.deliver_one(there)
        assert way.states == {"SEG": "FAILED", "SR": "REPLACED", "SR-REGIONS": "QUEUED"}
        return
    away.rename(seg)
    while dispatcher.deliver_one(there):
        pass
    assert way.states == {"SEG": "SENT", "SR": "SENT"}


def test_the_report_follows_a_seg_that_is_never_answered_after_an_hour(
    way: Way, archive: Callable[..., Archive], caplog: pytest.LogCaptureFixture
) -> None:
    there = archive(*[answer(Answer(500))] * 9)
    dispatcher = Dispatcher(way.node.deliveries, [], Backoff(1200, 1200, 3), "dispatch")
    for _ in range(3):
        assert not dispatcher.deliver_one(way.web(there))
        hasten(way)
    (seg, sr) = way.node.deliveries.list(study=way.study)
    assert (seg.attempts, seg.waited_seconds, sr.state) == (0, 3600, "QUEUED")
    assert len(errors(caplog, "destination_unreachable")) == 1
    assert list(way.problems()) == ["destination_unreachable"]
    there.steps = [answer(Answer(500))]
    assert not dispatcher.deliver_one(way.web(there))
    assert dispatcher.deliver_one(way.web(there))  # the report, while the SEG has its pause
    assert way.states == {"SEG": "RETRYING", "SR": "SENT"}
    assert way.texts("SR") == ["arrived, without SEG (RETRYING)"]
    hasten(way)
    assert dispatcher.deliver_one(way.web(there))
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert way.problems() == {}


def hasten(way: Way) -> None:
    """Lets pauses of deliveries be over."""
    with way.node.database.session() as session:
        for row in session.query(schema.DeliveryRow).filter_by(destination=way.name):
            row.run_after = NOW


# -- what is changed there ---------------------------------------------------------------------------------------------


def plain(response: Any) -> Answer:
    return Answer(200, json.dumps(response).encode())


def changed_to(**uids: str) -> Step:
    def step(there: Archive, kept: Kept) -> Answer:
        return plain(told(there.keep(kept, **uids), 0xB000))

    return step


@pytest.mark.parametrize(
    "uids",
    [
        {"SOPInstanceUID": "1.9.1"},
        {"StudyInstanceUID": "1.9.2", "SeriesInstanceUID": "1.9.3"},
        {"StudyInstanceUID": "1.9.2", "SeriesInstanceUID": "1.9.3", "SOPInstanceUID": "1.9.4"},
    ],
    ids=["instance", "study", "all"],
)
@pytest.mark.parametrize("silently", [False, True])
def test_an_archive_that_changes_uids_is_told_and_keeps_each_object_once(
    way: Way,
    archive: Callable[..., Archive],
    caplog: pytest.LogCaptureFixture,
    uids: dict[str, str],
    silently: bool,
) -> None:
    def quiet(there: Archive, kept: Kept) -> Answer:
        there.keep(kept, **uids)
        return plain(told(kept))

    if silently and len(uids) == 3:
        pytest.skip("nothing is left to know it by")
    there = archive(quiet if silently else changed_to(**uids))
    way.send(way.web(there))
    way.confirm(way.web(there))
    assert way.states == {"SEG": "COMMITTED", "SR": "COMMITTED"}
    assert there.kinds == ["SEG", "SR"]
    assert there.stored == 2
    assert next(iter(uids.values())) in way.warnings["SEG"]
    assert any("kept there as" in text for text in way.texts("SEG"))
    assert not any("not committed" in text for text in way.texts("SEG"))
    assert list(way.problems()) == ["coerced"]
    assert errors(caplog, "object_coerced")


def test_a_new_uid_in_an_answer_that_is_lost_is_found_by_the_series(way: Way, archive: Callable[..., Archive]) -> None:
    def renamed(there: Archive, kept: Kept) -> None:
        there.keep(kept, SOPInstanceUID="1.9.9")

    there = archive(renamed)
    way.send(way.web(there))
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert (there.kinds, there.stored) == (["SEG", "SR"], 2)
    assert "instance 1.9.9" in way.warnings["SEG"]


def test_changed_patient_data_is_told_by_the_names_of_the_attributes(way: Way, archive: Callable[..., Archive]) -> None:
    original, modified = Dataset(), Dataset()
    modified.PatientID, modified.PatientName = "SECRET", "SECRET^PERSON"
    original.ModifiedAttributesSequence = [modified]
    there = archive(store_and_tell(plain, OriginalAttributesSequence=[original]))
    way.send(way.web(there))
    way.confirm(way.web(there))
    assert way.states == {"SEG": "COMMITTED", "SR": "COMMITTED"}
    assert way.warnings == {"SEG": "it changed PatientName, PatientID"}
    assert list(way.problems()) == ["coerced"]


def test_what_was_changed_and_is_found_nowhere_is_not_sent_again(way: Way, archive: Callable[..., Archive]) -> None:
    there = archive(store_and_tell(plain, 0xB000))
    way.send(way.web(there))
    there.kept = [kept for kept in there.kept if kept.kind == "SR"]
    way.confirm(way.web(there))
    assert way.states == {"SEG": "SENT", "SR": "COMMITTED"}
    assert there.stored == 2
    assert way.texts("SEG")[-1].endswith("it is not sent again")


# -- warnings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warning", "words", "problem"),
    [
        (0xB006, "warning 0xB006, elements discarded", ["elements_discarded"]),
        (0xB007, "warning 0xB007, the dataset does not match its SOP class", []),
        (0xB000, "warning 0xB000, coercion of data elements", ["coerced"]),
        (0xB123, "warning 0xB123", []),
    ],
)
def test_a_warning_is_kept_and_is_told(
    way: Way,
    archive: Callable[..., Archive],
    caplog: pytest.LogCaptureFixture,
    warning: int,
    words: str,
    problem: list[str],
) -> None:
    there = archive(store_and_tell(plain, warning))
    way.send(way.web(there))
    way.confirm(way.web(there))
    assert way.states == {"SEG": "COMMITTED", "SR": "COMMITTED"}
    assert way.warnings == {"SEG": words}
    assert f"stored with a remark: {words}" in way.texts("SEG")
    assert f"\n    {words}\n" in way.listed()
    assert list(way.problems()) == problem
    assert bool(errors(caplog, "elements_discarded")) is (warning == 0xB006)


# -- a PACS that is away -----------------------------------------------------------------------------------------------


def test_an_archive_that_is_away_uses_up_no_attempt_and_gets_its_backlog_in_order(
    way: Way, node: Node, make_file: MakeFile, archive: Callable[..., Archive]
) -> None:
    second = Way(node, make_file, next(NUMBERS))
    second.name = way.name
    second.job()
    there = archive()
    there.down = True
    dispatcher = way.dispatcher(attempts=2)
    for _ in range(40):
        assert not dispatcher.deliver_one(way.web(there))
    assert way.states == {"SEG": "RETRYING", "SR": "QUEUED"}
    assert second.states == {"SEG": "QUEUED", "SR": "QUEUED"}  # one try at a time
    assert [d.attempts for d in node.deliveries.list(destination=way.name)] == [0, 0, 0, 0]
    assert len(way.texts("SEG")) == 1  # a night without an answer is one line
    there.down = False
    while dispatcher.deliver_one(way.web(there)):
        pass
    assert way.states == second.states == {"SEG": "SENT", "SR": "SENT"}
    assert [(k.StudyInstanceUID, k.kind) for k in there.kept] == [
        (way.study, "SEG"), (way.study, "SR"), (second.study, "SEG"), (second.study, "SR")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["refused", "name", "folder"])
def test_what_is_not_reached_waits_is_told_and_is_given_up_at_last(
    way: Way, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    there: Any = {
        "refused": DimseDestination(way.name, "NODE", "PACS", "127.0.0.1", free_port(), 1.0),
        "name": DicomwebDestination(way.name, "http://nowhere.invalid/web", 1.0),
        "folder": FolderDestination(way.name, tmp_path / "absent"),
    }[kind]
    deliveries = way.node.deliveries
    for since in range(4):  # each dispatcher is a restart, which tries at once
        dispatcher = Dispatcher(
            deliveries, [], Backoff(1200, 1200, 2), "dispatch", give_up_after=timedelta(seconds=4800)
        )
        assert list(way.problems()) == (["destination_unreachable"] if since == 3 else [])
        assert not dispatcher.deliver_one(there)
        assert not dispatcher.deliver_one(there)  # not before the pause is over
    assert len(errors(caplog, "destination_unreachable")) == 1
    assert way.states == {"SEG": "FAILED", "SR": "FAILED"}
    assert len(errors(caplog, "delivery_failed")) == 2
    (seg, _) = deliveries.list(study=way.study)
    assert seg.reason.startswith("given up after 0.0555556 days without an answer: ")
    assert all(deliveries.retry(d.id) for d in deliveries.list(study=way.study))
    assert [(d.state, d.waited_seconds) for d in deliveries.list(study=way.study)] == [("QUEUED", 0), ("QUEUED", 0)]


def test_the_problem_ends_with_the_first_answer_even_if_nothing_waits(
    way: Way, archive: Callable[..., Archive], caplog: pytest.LogCaptureFixture
) -> None:
    there = archive()
    there.down = True
    deliveries = way.node.deliveries
    Dispatcher(deliveries, [], Backoff(3600, 3600, 2), "dispatch").deliver_one(way.web(there))
    assert list(way.problems()) == ["destination_unreachable"]
    there.down = False
    dispatcher = Dispatcher(deliveries, [way.web(there)], Backoff(3600, 3600, 2), "dispatch")
    stop = threading.Event()
    running = threading.Thread(target=dispatcher.run, args=(stop,))
    running.start()
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while way.states != {"SEG": "SENT", "SR": "SENT"} and datetime.now(UTC) < deadline:
        stop.wait(0.05)
    stop.set()
    running.join()
    assert way.states == {"SEG": "SENT", "SR": "SENT"}
    assert way.problems() == {}
