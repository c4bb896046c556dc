"""A further kind of destination needs a module with its settings, and one line of the registry."""

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from dicom_node.deliver.destinations.interface import Asker
from dicom_node.deliver.destinations.registry import DESTINATION_KINDS
from dicom_node.deliver.destinations.settings import DestinationSettings
from dicom_node.dimse.results import EchoResult, InstanceReference, SendResult
from dicom_node.errors import ConfigurationError
from dicom_node.read.stores import open_stores
from dicom_node.roles import build_destination, build_dispatcher
from dicom_node.settings.check import find_mistakes
from dicom_node.settings.loading import inspect_config, load_settings
from dicom_node.settings.model import Settings
from storage.blobs import Blob
from tests.settings.test_settings import GOOD

SHELF = '[[destinations]]\nname = "shelf"\nkind = "shelf"\nplace = "cellar"\nboards = 3\n'


@dataclass
class Shelf:
    name: str
    place: Path
    timeout: float
    objects: list[Blob] = field(default_factory=list)

    def send(self, blobs: Sequence[Blob]) -> list[SendResult]:
        self.objects += blobs
        return [SendResult(str(blob), ok=True) for blob in blobs]

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        return frozenset(sop_class_uids)

    def echo(self) -> EchoResult:
        return EchoResult(ok=True, seconds=0.0)

    def commit(self, transaction_uid: str, references: Sequence[InstanceReference], asker: Asker) -> None:
        asker.taken()

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        return {reference.sop_instance_uid for reference in references}


class ShelfSettings(DestinationSettings):
    kind: Literal["shelf"]
    place: Path
    boards: int = 1
    screws: int | None = None

    @property
    def address(self) -> str:
        return f"the shelf in {self.place}"

    def build(self, calling_ae_title: str, timeout: float) -> Shelf:
        return Shelf(self.name, self.place, timeout)

    def local_problems(self) -> list[str]:
        return [] if self.place.is_dir() else [f"{self.place} has no floor"]

    @classmethod
    def contradictions(cls, key: str, entry: Mapping[str, Any]) -> Iterator[str]:
        if "screws" in entry and "boards" not in entry:
            yield f"{key}.screws: needs `boards`"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """The line of the registry; the settings were read from it when their module was imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DESTINATION_KINDS, "shelf", ShelfSettings)
        Settings.model_rebuild(force=True)
        yield
    Settings.model_rebuild(force=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(GOOD + SHELF)
    return path


def test_it_is_configured_built_and_served(config: Path, tmp_path: Path) -> None:
    settings = load_settings(config)
    shelf = build_destination(settings.destinations[1], settings)
    assert shelf == Shelf("shelf", tmp_path / "cellar", settings.dispatch.timeout_seconds)
    assert settings.destinations[1].address == f"the shelf in {tmp_path / 'cellar'}"
    dispatcher = build_dispatcher(settings, open_stores(settings.stores, upgrade=True))
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while "dispatch-shelf" not in (names := {one.name for one in threading.enumerate()}):
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert "dispatch-shelf" in names


def test_what_this_machine_lacks_for_it_is_told(config: Path, tmp_path: Path) -> None:
    assert f"destinations: shelf: {tmp_path / 'cellar'} has no floor" in find_mistakes(inspect_config(config))
    (tmp_path / "cellar").mkdir()
    assert not any("shelf" in mistake for mistake in find_mistakes(inspect_config(config)))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("boards = 3", "bords = 3", "destinations[1].bords: there is no such key; allowed: name,"),
        ("boards = 3", "bords = 3", "did you mean 'boards'?"),
        ('place = "cellar"', "", "destinations[1].place: missing"),
        ("boards = 3", "screws = 3", "destinations[1].screws: needs `boards`"),
        ('kind = "shelf"', 'kind = "shlf"', "did you mean 'shelf'?"),
    ],
)
def test_a_mistake_in_it_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD + SHELF.replace(old, new))
    with pytest.raises(ConfigurationError) as error:
        load_settings(path)
    assert told in str(error.value)
