"""Taking PDUs and fragments apart, without a network: every sequence ends in messages or in one of three exceptions."""

from collections.abc import Callable
from random import Random

import pytest

from dicom_node.dimse.messages import CHUNK_BYTES, LARGE_BYTES, READ_BYTES, Connection, MessageReader
from dicom_node.dimse.pdu import LARGEST_PDU_BYTES, AssociationOver, Lost, Released, Violation, decode_command
from tests.receive.raw import COMMAND, DATASET, LAST, RELEASE, data, fragment, pdu, store_command


class MemoryConnection(Connection):
    """A peer that has sent `sent`, in portions of at most `portion` bytes, and closed."""

    def __init__(self, sent: bytes, portion: int = READ_BYTES) -> None:
        self._sent = memoryview(sent)
        self._portion = portion
        self._buffer = bytearray()
        self._start = self._end = 0
        self._received, self._waited = 0, 0.0

    def between_messages(self, quiet: Callable[[], object]) -> bool:
        quiet()
        return True

    def _receive(self, targets: list[memoryview | bytearray]) -> int:
        count = 0
        for target in targets:
            part = self._sent[: min(len(target), self._portion - count)]
            target[: len(part)] = part
            self._sent = self._sent[len(part) :]
            count += len(part)
        if not count:
            raise Lost("the connection was closed")
        return count


def read_all(
    connection: Connection, contexts: tuple[int, ...] = (1, 3)
) -> tuple[list[tuple[str, bytes]], AssociationOver]:
    """SOP Instance UIDs and datasets of all messages, and what ended them."""
    reader, messages = MessageReader(connection, contexts), []
    try:
        while True:
            assert reader.between_messages()
            command = reader.command()
            dataset = b""
            if command.has_dataset:
                beginning, complete = reader.dataset(command.context_id)
                assert len(beginning) <= LARGE_BYTES + LARGEST_PDU_BYTES
                dataset = bytes(beginning)
                if not complete:
                    for part in reader.rest(command.context_id):
                        assert len(part) <= CHUNK_BYTES + LARGEST_PDU_BYTES
                        dataset += part
            messages.append((command.sop_instance_uid, dataset))
    except AssociationOver as ended:
        return messages, ended


def split(random: Random, content: bytes, control: int) -> list[bytes]:
    """A command or dataset as fragments of random sizes, some of none."""
    fragments, start = [], 0
    while True:
        end = min(len(content), start + random.choice([0, 1, 2, 7, 100, 10_000]))
        fragments.append(fragment(control | (LAST if end == len(content) else 0), content[start:end]))
        if end == len(content):
            return fragments
        start = end


def conversation(random: Random) -> tuple[list[bytes], list[tuple[str, bytes]]]:
    """PDUs, and the messages in them."""
    fragments, messages = [], []
    for number in range(random.randrange(1, 4)):
        uid, content = f"1.2.{number}", random.randbytes(random.choice([0, 1, 50, 300]))
        fragments += split(random, store_command(uid), COMMAND) + split(random, content, DATASET)
        messages.append((uid, content))
    pdus = []
    while fragments:
        count = random.randrange(1, 5)
        pdus.append(data(*fragments[:count]))
        fragments = fragments[count:]
    return pdus, messages


def test_messages_are_found_however_they_are_split() -> None:
    random = Random(1)
    for _ in range(1000):
        pdus, messages = conversation(random)
        connection = MemoryConnection(b"".join([*pdus, RELEASE]), random.choice([1, 3, 50, READ_BYTES]))
        found, ended = read_all(connection)
        assert found == messages
        assert isinstance(ended, Released)


def test_a_hundred_thousand_mutated_pdus_end_in_order() -> None:
    random, sent = Random(2), 0
    outcomes: dict[type[AssociationOver], int] = {}
    while sent < 100_000:
        pdus, _ = conversation(random)
        sent += len(pdus)
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(pdus))
            match random.randrange(6):
                case 0:
                    pdus.insert(at, pdus[random.randrange(len(pdus))])
                case 1:
                    pdus.insert(at, pdu(random.randrange(256), random.randbytes(random.randrange(20))))
                case 2:
                    pdus[at] = pdus[at][: random.randrange(1, len(pdus[at]) + 1)]
                case _:
                    mutated = bytearray(pdus[at])
                    mutated[random.randrange(min(len(mutated), 14))] = random.randrange(256)
                    pdus[at] = bytes(mutated)
        _, ended = read_all(MemoryConnection(b"".join([*pdus, RELEASE])))
        outcomes[type(ended)] = outcomes.get(type(ended), 0) + 1
    assert set(outcomes) == {Released, Lost, Violation}


def test_mutated_commands_are_read_or_refused() -> None:
    random = Random(3)
    for _ in range(20_000):
        encoded = bytearray(store_command("1.2.3.4"))
        for _ in range(random.randrange(1, 4)):
            encoded[random.randrange(len(encoded))] = random.randrange(256)
        try:
            decode_command(1, bytes(encoded[: random.randrange(len(encoded) + 1)]))
        except Violation:
            continue


@pytest.mark.parametrize("size", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES])
@pytest.mark.parametrize("fragment_bytes", [65_536, LARGEST_PDU_BYTES - 6])
def test_datasets_of_every_size_come_whole(size: int, fragment_bytes: int) -> None:
    content = Random(4).randbytes(size)
    pdus = [data(fragment(COMMAND | LAST, store_command("1.2.3")))]
    pdus += [data(fragment(DATASET, content[i : i + fragment_bytes])) for i in range(0, size, fragment_bytes)]
    pdus += [data(fragment(DATASET | LAST, b"")), RELEASE]
    found, ended = read_all(MemoryConnection(b"".join(pdus)))
    assert found == [("1.2.3", content)]
    assert isinstance(ended, Released)
