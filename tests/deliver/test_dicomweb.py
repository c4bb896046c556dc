"""DicomwebDestination against Orthanc behind TLS, and against a service that answers by script."""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.deliver.destinations.dicomweb import BasicAuth, BearerAuth, DicomwebDestination, read_secret
from dicom_node.dimse.results import InstanceReference, SendOutcome, SendResult
from dicom_node.errors import PeerUnavailable
from storage.blobs import file_blobs
from storage.errors import Permanent, Retriable
from tests.deliver.web import Answer, Asked, Authority, OrthancWeb, Scripted, orthanc_web, tls_in_front_of
from tests.instances import MakeFile, reference

Service = Callable[..., tuple[DicomwebDestination, Scripted]]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancWeb]:
    with orthanc_web(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "hospital")


@pytest.fixture
def service() -> Iterator[Service]:
    """Starts a service that gives `answer`, or what this function returns; None is no answer at all."""
    running = []

    def start(answer: Answer | Callable[[Asked], Answer | None]) -> tuple[DicomwebDestination, Scripted]:
        scripted = Scripted(answer if callable(answer) else lambda asked: answer)
        running.append(scripted)
        return DicomwebDestination("archive", scripted.url, 5.0), scripted

    yield start
    for scripted in running:
        scripted.close()


def secret(folder: Path, text: str) -> Path:
    path = folder / "secret"
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


def uid(path: Path) -> str:
    return str(dcmread(path).SOPInstanceUID)


def answer(status: int, stored: dict[str, int] = {}, failed: dict[str, int | None] = {}) -> Answer:  # noqa: B006
    """A Store Instances Response: UIDs with the reason of a warning (0: none), or of the failure."""
    ds = Dataset()
    ds.ReferencedSOPSequence = [_item(uid, "WarningReason", reason or None) for uid, reason in stored.items()]
    ds.FailedSOPSequence = [_item(uid, "FailureReason", reason) for uid, reason in failed.items()]
    return Answer(status, ds.to_json().encode(), "application/dicom+json; charset=UTF-8")


def _item(sop_instance_uid: str, keyword: str, reason: int | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if reason is not None:
        setattr(item, keyword, reason)
    return item


# -- Orthanc -----------------------------------------------------------------------------------------------------------


def test_objects_arrive_over_tls_with_a_password(
    orthanc: OrthancWeb, authority: Authority, make_file: MakeFile, tmp_path: Path
) -> None:
    auth = BasicAuth(orthanc.username, secret(tmp_path, orthanc.password))
    one = make_file(pixels=3_000_000)
    two = make_file(StudyInstanceUID=dcmread(one).StudyInstanceUID)
    references = [reference(one), reference(two)]
    with tls_in_front_of(orthanc.port, authority) as port:
        destination = DicomwebDestination(
            "archive", f"https://127.0.0.1:{port}/dicom-web", 10, auth, authority.certificate
        )
        assert destination.echo().ok
        assert destination.stored(references) == set()
        for paths in ([one], [one, two]):  # the first one twice: that is harmless
            results = destination.send(file_blobs(paths))
            assert [(r.sop_instance_uid, r.ok, r.reason) for r in results] == [(uid(p), True, "") for p in paths]
        absent, elsewhere = (
            replace(references[0], sop_instance_uid="1.2.3"),
            replace(references[0], study_instance_uid="1.2.3"),
        )
        assert destination.stored([*references, absent]) == {uid(one), uid(two)}
        assert destination.stored([elsewhere]) == set()
    for path in (one, two):
        assert orthanc.held(uid(path)) == dcmread(path)


def test_what_orthanc_drops_and_says_to_have_stored_is_found_out(
    orthanc: OrthancWeb, make_file: MakeFile, tmp_path: Path
) -> None:
    """Its plugin (1.7) names an instance as stored that a filter of the site has dropped."""
    destination = DicomwebDestination(
        "archive", orthanc.url, 10, BasicAuth(orthanc.username, secret(tmp_path, orthanc.password))
    )
    taken = make_file()
    study = str(dcmread(taken).StudyInstanceUID)
    dropped, text = make_file(Modality="KO", StudyInstanceUID=study), tmp_path / "notes.txt"
    text.write_text("not an image")
    results = destination.send(file_blobs([dropped, text, taken]))
    assert [(r.ok, r.retriable) for r in results] == [(True, False), (False, False), (True, False)]
    assert "notes.txt" in results[1].reason
    assert destination.stored([reference(dropped), reference(taken)]) == {uid(taken)}


def test_a_wrong_password_and_an_unknown_ca_are_told(
    orthanc: OrthancWeb, authority: Authority, make_file: MakeFile, tmp_path: Path
) -> None:
    path = make_file()
    right = BasicAuth(orthanc.username, secret(tmp_path, orthanc.password))
    wrong = BasicAuth(orthanc.username, tmp_path / "wrong")
    (tmp_path / "wrong").write_text("guessed")
    other = Authority(tmp_path, "somebody")
    with tls_in_front_of(orthanc.port, authority) as port:
        destination = DicomwebDestination(
            "archive", f"https://127.0.0.1:{port}/dicom-web", 10, wrong, authority.certificate
        )
        (result,) = destination.send(file_blobs([path]))
        assert (result.ok, result.retriable) == (False, False)
        assert "HTTP 401" in result.reason
        assert "`password_file`" in result.reason
        assert "guessed" not in result.reason
        for trusted in (other.certificate, None):  # None: whom this system trusts
            (result,) = replace(destination, auth=right, ca_file=trusted).send(file_blobs([path]))
            assert (result.ok, result.retriable) == (False, True)
            assert "certificate is not trusted" in result.reason
            assert "`ca_file`" in result.reason
        answered = replace(destination, url=destination.url.replace("127.0.0.1", "localhost")).echo()
        assert "not valid for 'localhost'" in answered.reason
    assert orthanc.held(uid(path)) is None


def test_a_client_certificate_is_shown(
    service: Service, authority: Authority, make_file: MakeFile, tmp_path: Path
) -> None:
    path = make_file()
    _, scripted = service(answer(200, {uid(path): 0}))
    clients = Authority(tmp_path, "clients")
    certificate, key = clients.sign("node")
    with tls_in_front_of(scripted.port, authority, clients) as port:
        destination = DicomwebDestination("archive", f"https://127.0.0.1:{port}/web", 5, None, authority.certificate)
        (result,) = destination.send(file_blobs([path]))
        assert (result.ok, result.retriable) == (False, True)
        assert scripted.asked == []
        assert replace(destination, client_certificate=certificate, client_key=key).send(file_blobs([path]))[0].ok
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        assert replace(destination, client_certificate=both).send(file_blobs([path]))[0].ok


# -- a service by script -----------------------------------------------------------------------------------------------


def test_a_partial_failure_is_read_for_each_instance(service: Service, make_file: MakeFile) -> None:
    paths = [make_file() for _ in range(6)]
    a, b, c, d, e, _ = map(uid, paths)
    destination, _ = service(answer(202, {a: 0, b: 0xB000}, {c: 0xA700, d: 0x0122, e: None}))
    results = destination.send(file_blobs(paths))
    assert [r.sop_instance_uid for r in results] == [uid(p) for p in paths]
    assert [(r.ok, r.retriable) for r in results] == [
        (True, False), (True, False), (False, True), (False, False), (False, True), (False, True)
    ]  # fmt: skip
    assert [r.refused for r in results] == [False, False, True, True, True, False]
    for result, told in zip(results, ("", "0xB000", "0xA700", "0x0122", "0x0110", "does not say"), strict=True):
        assert told in result.reason


XML = """<?xml version="1.0" encoding="UTF-8"?><NativeDicomModel>
<DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">
<DicomAttribute tag="00081155" vr="UI" keyword="ReferencedSOPInstanceUID"><Value number="1">{uid}</Value>
</DicomAttribute>
<DicomAttribute tag="00081197" vr="US" keyword="FailureReason"><Value number="1">{reason}</Value></DicomAttribute>
</Item></DicomAttribute></NativeDicomModel>"""


@pytest.mark.parametrize("status", [400, 409])
@pytest.mark.parametrize("media_type", ["application/dicom+json", "application/dicom+xml; charset=utf-8"])
def test_a_refusal_of_all_says_why_for_each(
    service: Service, make_file: MakeFile, status: int, media_type: str
) -> None:
    path = make_file()
    as_json = answer(status, {}, {uid(path): 0x0122}).body
    body = as_json if "json" in media_type else XML.format(uid=uid(path), reason=0x0122).encode()
    destination, _ = service(Answer(status, body, media_type))
    (result,) = destination.send(file_blobs([path]))
    assert result == SendResult(uid(path), SendOutcome.REFUSED, "refused (0x0122)")


@pytest.mark.parametrize(
    ("status", "retriable", "told"),
    [
        (400, False, "does not understand"),
        (401, False, "`token_file`"),
        (403, False, "the right to store"),
        (404, False, "check `url`"),
        (408, True, "HTTP 408"),
        (409, False, "refuses the object"),
        (413, False, "raise the limit"),
        (415, False, "does not take such objects"),
        (429, True, "HTTP 429"),
        (500, True, "HTTP 500"),
        (503, True, "HTTP 503"),
        (507, True, "HTTP 507"),
    ],
)
def test_statuses(service: Service, make_file: MakeFile, status: int, retriable: bool, told: str) -> None:
    body = json.dumps({"Message": "SECRET^PERSON"}).encode()
    destination, scripted = service(Answer(status, body, "application/json", {"Warning": '299 x "SECRET^PERSON"'}))
    (result,) = destination.send(file_blobs([make_file()]))
    assert (result.ok, result.retriable) == (False, retriable)
    assert told in result.reason
    assert result.refused is (status in (400, 409, 413, 415))  # then another object may be taken
    assert "SECRET" not in result.reason
    assert len(scripted.asked) == 1  # the dispatcher tries again, nobody else
    assert not destination.echo().ok
    with pytest.raises(Retriable if retriable else Permanent, match=str(status)):
        destination.stored([InstanceReference("1.2.3", "1.2.3.1", "1.2", "1.2.3.4")])


@pytest.mark.parametrize(
    "reply",
    [
        Answer(200),
        Answer(200, b"<html>please log in</html>", "text/html"),
        Answer(200, b"{}"),
        Answer(200, b"[[1]]"),
        Answer(200, b"not json"),
        Answer(202, b"<NativeDicomModel", "application/dicom+xml"),
        Answer(200, b'{"00081199": {"vr": "SQ", "Value": [{}]}}', cut=True),
        None,
    ],
)
def test_what_no_answer_names_is_not_stored(service: Service, make_file: MakeFile, reply: Answer | None) -> None:
    destination, _ = service(lambda asked: reply)
    (result,) = destination.send(file_blobs([make_file()]))
    assert (result.ok, result.retriable) == (False, True)
    assert result.reason


def test_a_token_is_read_anew_for_each_request(service: Service, make_file: MakeFile, tmp_path: Path) -> None:
    path = make_file()
    valid = "abc.DEF-1"

    def guarded(asked: Asked) -> Answer:
        return answer(200, {uid(path): 0}) if asked.headers.get("authorization") == f"Bearer {valid}" else Answer(401)

    destination, scripted = service(guarded)
    assert not destination.send(file_blobs([path]))[0].ok
    destination = replace(destination, auth=BearerAuth(secret(tmp_path, valid)))
    assert destination.send(file_blobs([path]))[0].ok
    valid = "ghi.JKL-2"
    (result,) = destination.send(file_blobs([path]))
    assert (result.ok, result.retriable) == (False, False)
    assert "abc.DEF-1" not in result.reason
    secret(tmp_path, valid)
    assert destination.send(file_blobs([path]))[0].ok
    (tmp_path / "secret").unlink()
    (result,) = destination.send(file_blobs([path]))
    assert (result.ok, result.retriable) == (False, True)
    assert "token_file" in result.reason
    with pytest.raises(PeerUnavailable, match="token_file"):
        destination.stored([InstanceReference("1.2", "1.3", "1.4", "1.5")])
    assert len(scripted.asked) == 4
    assert all("Bearer" not in asked.path for asked in scripted.asked)


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff\xfe", "tökén".encode()])
def test_a_secret_that_cannot_be_one_is_told_without_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(PeerUnavailable, match="must hold one line") as error:
        read_secret("token_file", path)
    assert "lines" not in str(error.value)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [(2048, "did not answer within 1 s"), (30_000_000, "broke off")],  # the larger one is not even taken in
)
def test_silence_and_nobody_there_are_retriable(make_file: MakeFile, pixels: int, told: str) -> None:
    path = make_file(pixels=pixels)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        destination = DicomwebDestination("archive", f"http://127.0.0.1:{listener.getsockname()[1]}/web", 1.0)
        start = time.monotonic()
        (silent,) = destination.send(file_blobs([path]))
        assert time.monotonic() - start < 6
    (gone,) = destination.send(file_blobs([path]))
    for result in (silent, gone):
        assert (result.ok, result.retriable) == (False, True)
    assert told in silent.reason
    assert "cannot be reached" in gone.reason


def test_images_do_not_follow_a_redirection(service: Service, make_file: MakeFile) -> None:
    _, other = service(Answer(200))
    for status in (302, 307):
        destination, _ = service(Answer(status, headers={"Location": f"{other.url}/studies"}))
        (result,) = destination.send(file_blobs([make_file()]))
        assert (result.ok, result.retriable) == (False, False)
        assert "set `url`" in result.reason
    assert other.asked == []


def test_an_object_goes_as_it_is_with_its_length_and_urls_hold_uids_alone(
    service: Service, make_file: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_file(pixels=3_000_000)
    destination, scripted = service(lambda asked: answer(200, {uid(path): 0}) if asked.body else Answer(204))
    with caplog.at_level(logging.DEBUG, logger="dicom_node"):
        assert destination.send(file_blobs([path]))[0].ok
        assert destination.echo().ok
        odd = replace(reference(path), study_instance_uid="1.2..3")
        assert destination.stored([odd]) == set()  # a scanner's UID that is not quite one
    stored, echoed, looked = scripted.asked
    assert path.read_bytes() in stored.body
    assert int(stored.headers["content-length"]) == len(stored.body)
    assert {asked.headers["host"] for asked in scripted.asked} == {f"127.0.0.1:{scripted.port}"}
    assert stored.path == "/web/studies"
    assert echoed.path.startswith("/web/studies?")
    assert looked.path == f"/web/studies/1.2..3/instances?SOPInstanceUID={uid(path)}"
    assert "SECRET" not in caplog.text + "".join(asked.path for asked in scripted.asked)
