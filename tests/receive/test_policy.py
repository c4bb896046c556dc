import re
from dataclasses import replace

import pytest
from pynetdicom import build_context

from dicom_node.dimse.pdu import StoreRequest
from dicom_node.dimse.status import DimseStatus
from dicom_node.receive.policy import Peer, ReceivePolicy, ServiceName, find_peer, reject_beyond_limit
from dicom_node.receive.presentation_contexts import SopClass, is_storage, supported_contexts
from dicom_node.receive.storage import describe_opening, ensure_acceptable, response_to
from dicom_node.roles import receiver_name
from dicom_node.runtime.logs import printable, unexpected
from storage.errors import Permanent, Retriable, StorageFull
from storage.log.headers.header import InstanceHeader

COMMITMENT = "1.2.840.10008.1.20.1"
ANYONE = ReceivePolicy("NODE")
CONFIGURED = ReceivePolicy("NODE", peers=(Peer("SCANNER1"), Peer("SCANNER2", "10.0.0.2"), Peer("SCANNER3", "mr3")))


def diagnostic(policy: ReceivePolicy, calling: str, called: str, host: str) -> tuple[int, int, int] | None:
    judged = find_peer(policy, calling, called, host, {"mr3": ["10.0.0.3", "fd00::3"]}.get)  # type: ignore[arg-type]
    return None if isinstance(judged, Peer) else judged.reason.value


@pytest.mark.parametrize(
    ("policy", "calling", "called", "host", "answer"),
    [
        (ANYONE, "WHOEVER", "WHATEVER", "192.0.2.1", None),
        (CONFIGURED, "SCANNER1", "NODE", "192.0.2.1", None),
        (CONFIGURED, "STRANGER", "NODE", "192.0.2.1", (0x01, 0x01, 0x03)),
        (CONFIGURED, "SCANNER1", "OTHER", "192.0.2.1", (0x01, 0x01, 0x07)),
        (CONFIGURED, "SCANNER2", "NODE", "10.0.0.2", None),
        (CONFIGURED, "SCANNER3", "NODE", "10.0.0.3", None),
        (CONFIGURED, "SCANNER3", "NODE", "::ffff:10.0.0.3", None),
        (CONFIGURED, "SCANNER3", "NODE", "fd00:0:0::3", None),
        (CONFIGURED, "SCANNER3", "NODE", "10.0.0.2", (0x01, 0x01, 0x03)),
    ],
)
def test_who_is_admitted(
    policy: ReceivePolicy, calling: str, called: str, host: str, answer: tuple[int, int, int] | None
) -> None:
    assert diagnostic(policy, calling, called, host) == answer


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.4", True),  # MR Image
        ("1.2.840.10008.5.1.4.1.1.66.7", True),  # Label Map Segmentation, newer than some dictionaries
        ("1.2.840.10008.5.1.4.1.1.5", True),  # Nuclear Medicine Image, retired
        ("1.2.276.0.7230010.3.1.0.1", True),  # private
        ("1.2.840.10008.1.1", False),  # Verification
        ("1.2.840.10008.1.20.1", False),  # Storage Commitment Push Model
        ("1.2.840.10008.3.1.2.3.3", False),  # MPPS
        ("1.2.840.10008.5.1.4.1.2.2.1", False),  # Study Root FIND
        ("1.2.840.10008.5.1.1.9", False),  # Basic Grayscale Print Management Meta
        ("1.2.840.10008.1.9", False),  # Basic Study Content Notification, retired
        ("1.2.840.10008.1.2.1", False),  # a transfer syntax
    ],
)
def test_what_is_stored(uid: str, expected: bool) -> None:
    assert is_storage(uid) is expected


def test_the_peers_first_transfer_syntax_is_preferred_and_contexts_of_one_class_are_merged() -> None:
    mr = "1.2.840.10008.5.1.4.1.1.4"
    jpeg_ls, implicit, private = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2", "1.2.3.4"
    proposed = [build_context(mr, [jpeg_ls, implicit]), build_context(mr, [private, implicit])]
    (context,) = supported_contexts([*proposed, build_context(COMMITMENT, [implicit])], Peer("MR1"))
    assert context.abstract_syntax == mr
    assert [str(s) for s in context.transfer_syntax] == [jpeg_ls, implicit, private]


def test_a_peer_is_offered_what_it_may_use() -> None:
    mr, verification = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.1"
    proposed = [build_context(uid) for uid in (mr, verification, COMMITMENT)]
    further = [SopClass(COMMITMENT, ServiceName.COMMITMENT, scu_role=True, scp_role=False)]

    def offered(services: frozenset[ServiceName] | None) -> dict[str, tuple[bool | None, bool | None]]:
        contexts = supported_contexts(proposed, Peer("MR1", services=services), further)
        return {str(c.abstract_syntax): (c.scu_role, c.scp_role) for c in contexts}

    assert offered(None) == {mr: (None, None), verification: (None, None), COMMITMENT: (True, False)}
    assert set(offered(frozenset({ServiceName.ECHO}))) == {verification}
    assert set(offered(frozenset({ServiceName.STORE, ServiceName.COMMITMENT}))) == {mr, COMMITMENT}
    assert offered(frozenset({ServiceName.MPPS})) == {}


@pytest.mark.parametrize(
    ("associations", "of_peer", "refused"), [(0, 0, False), (2, 1, False), (2, 2, True), (3, 0, True)]
)
def test_limits_are_for_all_and_for_each_peer(associations: int, of_peer: int, refused: bool) -> None:
    policy = ReceivePolicy("NODE", maximum_associations=3)
    refusal = reject_beyond_limit(policy, Peer("MR1", maximum_associations=2), associations, of_peer)
    assert (refusal is not None) is refused
    if refusal is not None:
        assert refusal.reason.value == (0x02, 0x03, 0x02)


@pytest.mark.parametrize("limits", [{"maximum_associations": 0}, {"maximum_pdu_bytes": 100}])
def test_impossible_limits_are_mistakes(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="maximum"):
        Peer("MR1", **limits)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageFull("full"), DimseStatus.OUT_OF_RESOURCES),
        (Retriable("busy"), DimseStatus.OUT_OF_RESOURCES),
        (Permanent("unusable"), DimseStatus.CANNOT_UNDERSTAND),
        (RuntimeError("SECRET^PERSON"), DimseStatus.PROCESSING_FAILURE),
    ],
)
def test_the_type_of_an_error_decides_the_status(error: Exception, status: DimseStatus) -> None:
    response = response_to(error)
    assert response.status is status
    assert "SECRET" not in response.comment
    assert len(response.error_comment) <= 64


MR = "1.2.840.10008.5.1.4.1.1.4"
ACCEPTABLE = InstanceHeader(MR, "1.2.3", "1.2", "1.2.1", "MR")


@pytest.mark.parametrize(
    ("header", "sop_class", "abstract_syntax", "status"),
    [
        (ACCEPTABLE, MR, MR, None),
        (ACCEPTABLE, MR, "1.2.840.10008.5.1.4.1.1.2", DimseStatus.SOP_CLASS_NOT_SUPPORTED),
        (
            ACCEPTABLE,
            "1.2.840.10008.5.1.4.1.1.2",
            "1.2.840.10008.5.1.4.1.1.2",
            DimseStatus.DATASET_MISMATCH,
        ),
        (replace(ACCEPTABLE, sop_instance_uid="1.2.4"), MR, MR, DimseStatus.DATASET_MISMATCH),
        (replace(ACCEPTABLE, sop_class_uid="1.2.x"), "1.2.x", "1.2.x", DimseStatus.CANNOT_UNDERSTAND),
        (replace(ACCEPTABLE, sop_class_uid="../1"), "../1", "../1", DimseStatus.CANNOT_UNDERSTAND),
        (replace(ACCEPTABLE, series_instance_uid="1.2.x"), MR, MR, DimseStatus.CANNOT_UNDERSTAND),
        (replace(ACCEPTABLE, study_instance_uid="1" * 65), MR, MR, DimseStatus.CANNOT_UNDERSTAND),
    ],
)
def test_what_is_acknowledged_can_be_filed(
    header: InstanceHeader, sop_class: str, abstract_syntax: str, status: DimseStatus | None
) -> None:
    request = StoreRequest(sop_class, "1.2.3", "1.2.840.10008.1.2.1", abstract_syntax)
    if status is None:
        ensure_acceptable(header, request)
        return
    with pytest.raises(Permanent) as refused:
        ensure_acceptable(header, request)
    assert response_to(refused.value).status is status


@pytest.mark.parametrize("host", ["node", "h" * 30 + "." + "d" * 63])
def test_names_of_receivers_fit_the_database_and_differ(host: str) -> None:
    names = {receiver_name(host, index) for index in range(12)}
    assert len(names) == 12
    assert all(len(name) <= 64 and "-receive-" in name for name in names)


@pytest.mark.parametrize(
    ("opening", "words"),
    [
        (b"", "nothing"),
        (b"GET / ", "not DICOM"),
        (b"\x16\x03\x01\x02\x00\x01", "not DICOM"),
        (b"\x01\x00\x00\x00\x00\x10", "incomplete"),
    ],
)
def test_a_failed_opening_is_explained(opening: bytes, words: str) -> None:
    assert words in describe_opening(opening)


def test_a_peers_text_cannot_forge_log_lines() -> None:
    assert printable(" AE\nERROR x ") == "AE?ERROR x"


def test_an_unexpected_error_is_told_by_type_and_place_alone() -> None:
    def foreign(host: str) -> list[str]:
        raise KeyError("SECRET^PERSON")

    with pytest.raises(KeyError) as met:
        find_peer(CONFIGURED, "SCANNER3", "NODE", "10.0.0.3", foreign)
    assert re.fullmatch(r"KeyError at dicom_node/receive/policy\.py:\d+", unexpected(met.value))
    assert unexpected(KeyError("SECRET^PERSON")) == "KeyError"
