"""Valid sessions and what a seed makes of them."""

import random
import struct
from collections.abc import Callable, Sequence

from tests.faults.wire import associate_rq, echo_rq, make_instance, release_rq, store_rq

Mutate = Callable[[bytes, random.Random], bytes]

INTERESTING = (0, 1, 2, 3, 5, 6, 7, 8, 0x7F, 0x80, 0xFE, 0xFF)
LENGTHS = (0, 1, 2, 5, 6, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def valid_session(generator: random.Random) -> list[bytes]:
    """The PDUs of a sender: an association, an echo, some small images in many fragments, the release."""
    pdus = [associate_rq("DICOM_NODE", "HOSTILE"), echo_rq()]
    for message_id in range(1, generator.randint(2, 5)):
        instance = make_instance(generator, generator.randrange(2, 1500))
        pdus += store_rq(instance, message_id, fragment=generator.choice((64, 200, 4000)))
    return [*pdus, release_rq()]


def mutated_session(pdus: Sequence[bytes], generator: random.Random) -> tuple[list[bytes], int]:
    """The same PDUs, about every fifth one changed, at least one; and how many are."""
    found = list(pdus)
    # A broken association request ends it all, so most of the sessions come further than that.
    first = 0 if generator.random() < 0.2 else 1
    for _ in range(max(1, len(found) // 5)):
        at = generator.randrange(first, len(found))
        found[at] = generator.choice(_MUTATIONS)(found[at], generator)
    mutated = sum(a != b for a, b in zip(pdus, found, strict=True))
    if generator.random() < 0.3:
        _reorder(found, first, generator)
    return found, mutated


def _reorder(pdus: list[bytes], first: int, generator: random.Random) -> None:
    a, b = generator.randrange(first, len(pdus)), generator.randrange(first, len(pdus))
    choice = generator.randrange(3)
    if choice == 0:
        pdus[a], pdus[b] = pdus[b], pdus[a]
    elif choice == 1:
        pdus.insert(a, pdus[b])
    elif len(pdus) > 2:
        del pdus[b]


def _flip(pdu: bytes, generator: random.Random) -> bytes:
    changed = bytearray(pdu)
    for _ in range(generator.randint(1, 4)):
        if changed:
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _interesting(pdu: bytes, generator: random.Random) -> bytes:
    """Near the start, where the lengths and types are."""
    changed = bytearray(pdu)
    if changed:
        changed[generator.randrange(min(80, len(changed)))] = generator.choice(INTERESTING)
    return bytes(changed)


def _length(pdu: bytes, generator: random.Random) -> bytes:
    """Of the PDU, of its first PDV, or of any four bytes."""
    if len(pdu) < 10:
        return pdu
    at = generator.choice((2, 6, generator.randrange(len(pdu) - 3)))
    order = generator.choice(("<I", ">I"))
    return pdu[:at] + struct.pack(order, generator.choice(LENGTHS)) + pdu[at + 4 :]


def _cut(pdu: bytes, generator: random.Random) -> bytes:
    return pdu[: generator.randrange(len(pdu))] if pdu else pdu


def _consistent_cut(pdu: bytes, generator: random.Random) -> bytes:
    """Shorter, and the length of the PDU says so."""
    if len(pdu) < 8:
        return pdu
    body = pdu[6 : generator.randrange(6, len(pdu))]
    return pdu[:2] + struct.pack(">I", len(body)) + body


def _insert(pdu: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(pdu) + 1)
    return pdu[:at] + generator.randbytes(generator.randint(1, 16)) + pdu[at:]


def _type(pdu: bytes, generator: random.Random) -> bytes:
    return bytes([generator.randrange(256)]) + pdu[1:]


def _noise(pdu: bytes, generator: random.Random) -> bytes:
    """Nothing but noise in a well-formed envelope."""
    body = generator.randbytes(generator.randrange(200))
    return pdu[:1] + b"\0" + struct.pack(">I", len(body)) + body


_MUTATIONS: tuple[Mutate, ...] = (_flip, _interesting, _length, _cut, _consistent_cut, _insert, _type, _noise)
