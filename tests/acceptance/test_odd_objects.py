"""Objects that are stored and that pydicom cannot read: each study ends in a result or in a true reason."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.demo.pacs.base import Pacs
from dicom_node.dimse.scu import find_files
from tests.acceptance.node import SCANNER, Node, delivered
from tests.acceptance.studies import write_ball_study
from tests.receive.raw import RELEASE, RawPeer, association_request
from tests.receive.test_odd_datasets import ITEM, NOISE, OPEN, REFERENCE, SEQUENCE, SEQUENCE_DELIMITER, element
from tests.receive.test_streaming import send

pytestmark = pytest.mark.slow  # a minute

MIDDLE = 7  # of the 20 slices
UNREADABLE = "cannot be read as DICOM"
ROWLESS = "is not an image: MR Image Storage, without Rows and Columns"
TOO_FEW = "only 1 slice in one orientation"


@dataclass(frozen=True)
class Oddness:
    """A way to encode an image that violates the standard, and what is told of it.

    `alone` is told of a study of such an image alone, which `gets_report` or not. `amid` is told of a good series in
    which it is one image; it is empty if the series gives a result.
    """

    encode: Callable[[Dataset], bytes]
    alone: str = UNREADABLE
    amid: str = UNREADABLE
    gets_report: bool = False


def encoded(ds: Dataset, begin: int = 0, end: int = 0xFFFFFFFF) -> bytes:
    """Encode the elements from one tag to another."""
    target = BytesIO()
    part = Dataset({tag: found for tag, found in ds.items() if begin <= int(tag) < end})
    dcmwrite(target, part, implicit_vr=False, little_endian=True)
    return target.getvalue()


def with_odd(tag: int, odd: bytes, behind: int = 0) -> Callable[[Dataset], bytes]:
    """Return the encoder that puts `odd` at the place of `tag`, and leaves out what comes before `behind`."""
    return lambda ds: encoded(ds, 0, tag) + odd + encoded(ds, behind or tag)


ODD = {
    "no end of an item": Oddness(with_odd(0x00081140, SEQUENCE + ITEM + OPEN + REFERENCE + SEQUENCE_DELIMITER)),
    "a VR of question marks": Oddness(with_odd(0x00091010, element(0x00091010, b"??", b"abcdef"))),
    "UIDs behind the pixels": Oddness(lambda ds: encoded(ds, 0, 0x0020000D) + encoded(ds, 0x00200010)
                                      + encoded(ds, 0x0020000D, 0x00200010)),
    "all UIDs behind the pixels": Oddness(
        lambda ds: encoded(ds, 0, 0x00080016) + encoded(ds, 0x00080019, 0x0020000D) + encoded(ds, 0x00200010)
        + encoded(ds, 0x00080016, 0x00080019) + encoded(ds, 0x0020000D, 0x00200010),
        alone="image 8 has no SOPClassUID", amid="it has no SOPClassUID",
    ),
    "an element that is cut off": Oddness(
        lambda ds: encoded(ds, 0, 0x00280000) + element(0x00291010, b"OB", b"abc", length=b"\xf0\xff\xff\xff"),
        alone=ROWLESS, amid=ROWLESS,
    ),
    "noise behind the UIDs": Oddness(lambda ds: encoded(ds, 0, 0x00280000) + NOISE[:5000], alone=ROWLESS, amid=ROWLESS),
    "pixels that are cut off": Oddness(
        lambda ds: encoded(ds)[:-3000], alone=TOO_FEW, amid="the pixels of image 8 cannot be decoded", gets_report=True
    ),
    "a date of a future VR": Oddness(
        with_odd(0x00080020, element(0x00080020, b"XY", b"20260101"), behind=0x00080021),
        alone=TOO_FEW, amid="", gets_report=True,
    ),
}  # fmt: skip


class Sender:
    """A scanner that sends images of one good study again and again, each time as another study."""

    def __init__(self, peer: RawPeer, paths: list[Path]) -> None:
        self._peer = peer
        self._images = [dcmread(path) for path in paths]

    def send(self, encode: Callable[[int], Callable[[Dataset], bytes] | None], study: str = "") -> str:
        """Send a series, of which `encode` gives the way for each image, None to leave it out. Return its study."""
        study, series = study or generate_uid(), generate_uid()
        for n, image in enumerate(self._images):
            way = encode(n)
            if way is not None:
                ds = Dataset(dict(image.items()))
                ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
                ds.PatientID = study[-20:]
                assert send(self._peer, str(ds.SOPInstanceUID), way(ds)) == 0x0000
        return study


def ended(detail: dict[str, Any]) -> bool:
    """Nothing is expected any more of a study that was looked at."""
    return detail["state"] in ("ROUTED", "IGNORED") and all(
        job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED") for job in detail["jobs"]
    )


def reported(detail: dict[str, Any]) -> bool:
    return ended(detail) and any(job["kind"] == "NO_RESULT" for job in detail["jobs"]) and delivered()(detail)


def told(node: Node, *arguments: str) -> str:
    done = node.run(*arguments)
    assert done.returncode == 0, (arguments, done.stderr)
    return " ".join(done.stdout.split())


def text_of(pacs: Pacs, detail: dict[str, Any]) -> str:
    """The text of the only report of no result of a study."""
    (uid,) = [one["sop_instance_uid"] for one in detail["objects"]]
    return " ".join(str(item.TextValue) for item in pacs.dataset(uid).ContentSequence if item.ValueType == "TEXT")


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]]) -> tuple[Node, Pacs]:
    return make_node()


@pytest.fixture(scope="module")
def studies(place: tuple[Node, Pacs], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """The studies that were sent, by the name of the oddness and of the case."""
    folder = tmp_path_factory.mktemp("good")
    write_ball_study(folder)
    found: dict[tuple[str, str], str] = {}
    with RawPeer(place[0].target, association_request(calling=SCANNER, called="DICOM_NODE")) as peer:
        sender = Sender(peer, find_files([folder]))
        for name, odd in ODD.items():
            found[name, "alone"] = sender.send(lambda n, odd=odd: odd.encode if n == MIDDLE else None)
            found[name, "amid"] = sender.send(lambda n, odd=odd: odd.encode if n == MIDDLE else encoded)
            found[name, "beside"] = study = sender.send(lambda n: encoded)
            sender.send(lambda n, odd=odd: odd.encode if n < 3 else None, study)
        odd = ODD["no end of an item"]
        found["", "last"] = sender.send(lambda n: odd.encode if n == 19 else encoded)
        peer.send(RELEASE)
        peer.receive()
    return found


@pytest.mark.parametrize("name", ODD)
def test_a_study_of_an_odd_object_alone_says_why(
    place: tuple[Node, Pacs], studies: dict[tuple[str, str], str], name: str
) -> None:
    (node, pacs), odd, uid = place, ODD[name], studies[name, "alone"]
    detail = node.wait(uid, lambda d: d["state"] == "IGNORED")
    assert odd.alone in detail["reason"]
    assert odd.alone in told(node, "explain", uid)
    if odd.gets_report:
        assert odd.alone in text_of(pacs, node.wait(uid, reported))
        return
    (job,) = node.wait(uid, lambda d: any(j["state"] == "FAILED" for j in d["jobs"]))["jobs"]
    problems = " ".join(node.run("problems").stdout.split())
    assert f"job {job['id']} (model) failed for good: no image of the study can be read" in problems


@pytest.mark.parametrize("name", ODD)
def test_a_good_series_with_an_odd_image_is_used_or_says_why_not(
    place: tuple[Node, Pacs], studies: dict[tuple[str, str], str], name: str
) -> None:
    (node, pacs), odd, uid = place, ODD[name], studies[name, "amid"]
    if not odd.amid:
        detail = node.wait(uid, delivered())
        assert [o["kind"] for o in detail["objects"]] == ["SEG", "SR"]
        return
    detail = node.wait(uid, reported)
    assert odd.amid in text_of(pacs, detail)
    if detail["state"] == "IGNORED":
        assert "1 slice(s) missing" in detail["reason"]
        assert odd.amid in detail["reason"]


@pytest.mark.parametrize("name", ODD)
def test_odd_objects_cost_nothing_but_their_own_series(
    place: tuple[Node, Pacs], studies: dict[tuple[str, str], str], name: str
) -> None:
    node, _ = place
    detail = node.wait(studies[name, "beside"], delivered())
    assert [o["kind"] for o in detail["objects"]] == ["SEG", "SR"]
    assert len(detail["instances"]) == 23


def test_an_odd_image_at_the_end_is_left_out(place: tuple[Node, Pacs], studies: dict[tuple[str, str], str]) -> None:
    node, _ = place
    uid = studies["", "last"]
    detail = node.wait(uid, delivered())
    assert [o["kind"] for o in detail["objects"]] == ["SEG", "SR"]
    (series,) = node.command("explain", uid)["routing"]["series"]
    assert f"an object without number is left out: it {UNREADABLE}" in series["reasons"]


def test_the_node_goes_on_and_names_what_it_could_not_do(
    place: tuple[Node, Pacs], studies: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    """Nothing is tried for ever, no error is unexpected, and the commands work on all of it."""
    node, _ = place
    details = {key: node.wait(uid, ended) for key, uid in studies.items()}
    problems = node.run("problems").stdout
    assert "machine_trouble" not in problems
    for detail in details.values():
        for job in detail["jobs"]:
            assert job["state"] == "SUCCEEDED" or f"job {job['id']} " in problems
    assert "no problems" in told(node, "fsck")
    uid = studies["no end of an item", "beside"]
    assert "23 instances" in told(node, "study", uid)
    told(node, "export", uid, str(tmp_path / "exported"))
    assert "T1w" in told(node, "recognise", *map(str, (tmp_path / "exported").iterdir()))
    log = node.log.read_text()
    assert "Traceback" not in log
    assert "cannot be recognised" not in log
    assert "PHANTOM" not in log
