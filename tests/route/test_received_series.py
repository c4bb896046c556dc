"""Series are read once as long as they stay the same, and again whatever changes in them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.route import received_series
from dicom_node.route.received_series import ReceivedSeries
from storage.log.instances import InstanceStore
from storage.records.instances import Stored
from storage.tables.database.connection import Database, default_url
from tests.storage.node import NOW, STUDY, Node, overwrite, received

FIRST, SECOND = f"{STUDY}.1", f"{STUDY}.2"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    node = Node(database, tmp_path / "instances")
    for series in (1, 2):
        for number in (1, 2):
            node.store(received(number, series=series))
    yield node
    database.close()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The series whose rows were read, one after another."""
    found: list[str] = []
    series = InstanceStore.series

    def seen(store: InstanceStore, study: str, only: list[str] | None = None) -> object:
        found.extend(sorted(only or ()))
        return series(store, study, only)

    monkeypatch.setattr(InstanceStore, "series", seen)
    return found


def changes(node: Node, series: ReceivedSeries, read: list[str]) -> list[str]:
    """Read the study as an empty memory would, and return the series whose rows were read for it."""
    read.clear()
    found = series.of_study(STUDY)
    changed = list(read)
    assert found == ReceivedSeries(node.instances).of_study(STUDY)
    return changed


def test_what_stays_the_same_is_read_once(node: Node, read: list[str]) -> None:
    series = ReceivedSeries(node.instances)
    assert [s.series_instance_uid for s in series.read(STUDY, [SECOND])] == [SECOND]
    assert changes(node, series, read) == [FIRST]
    assert changes(node, series, read) == []


@pytest.mark.parametrize("what", ["late", "version", "older clock", "restored"])
def test_whatever_changes_is_read_again(node: Node, read: list[str], what: str) -> None:
    series = ReceivedSeries(node.instances)
    series.of_study(STUDY)
    match what:
        case "late":
            node.store(received(3, series=2))
        case "version":
            assert node.store(received(1, series=2, name="CORRECTED")) is Stored.VERSION
        case "older clock":
            sent = received(1, series=2, name="CORRECTED")
            assert node.store(replace(sent, instance=replace(sent.instance, received_at=NOW))) is Stored.VERSION
        case "restored":
            overwrite(next(i.blob for i in node.instances.instances(STUDY, [SECOND])), lambda content: content[::-1])
            assert node.store(received(1, series=2)) is Stored.DUPLICATE
    assert changes(node, series, read) == [SECOND]


def test_the_oldest_are_forgotten(node: Node, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_series, "MOST_INSTANCES", 3)
    series = ReceivedSeries(node.instances)
    series.of_study(STUDY)
    assert changes(node, series, read) == [FIRST]
