"""A wall clock that can be set for the processes of one node (Debian's libfaketime), and a PACS that only takes in."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from dicom_node.objects.registry import WRITTEN_SOP_CLASSES

LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")

# libfaketime 0.9.10 breaks clock_nanosleep, by which Python sleeps, while the monotonic clock is not faked.
SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds) and None\n"


class SettableClock:
    """The wall clock of the processes that get `environment`. Their monotonic clock stays as it is."""

    def __init__(self, folder: Path) -> None:
        library = next((Path(place) / "libfaketimeMT.so.1" for place in LIBRARIES if Path(place).is_dir()), None)
        if library is None:
            pytest.skip("libfaketime is not installed: run tests/install-peers.sh")
        self._file = folder / "offset"
        self._ahead = 0
        (folder / "sitecustomize.py").write_text(SLEEP)
        self.step(0)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "NO_FAKE_STAT": "1",  # the times of files would be read and changed by the thousand
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[2])]),
        }

    def step(self, seconds: int) -> None:
        """Set the clock by so many seconds."""
        self._ahead += seconds
        written = self._file.with_suffix(".new")
        written.write_text(f"{self._ahead:+d}\n")
        os.replace(written, self._file)


class SilentPacs:
    """A PACS that takes objects and requests for storage commitment, and never reports."""

    ae_title = "PACS"
    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self.port = port
        self.stored: list[str] = []
        self.asked = 0

    def start(self) -> None:
        ae = AE(self.ae_title)
        ae.supported_contexts = [build_context(uid) for uid in (*WRITTEN_SOP_CLASSES, StorageCommitmentPushModel)]
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._ask)]
        self._server = ae.start_server((self.host, self.port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]

    def stop(self) -> None:
        self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _ask(self, event: evt.Event) -> tuple[int, None]:
        self.asked += 1
        return 0x0000, None
