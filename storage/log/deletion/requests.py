"""The requests to delete studies: a file for each, from when a person asks until it is carried out or refused.

A command leaves the request, and the index role carries it out. A row would need the database to have space.
"""

import json
from pathlib import Path

from storage.errors import StorageFull
from storage.log.deletion.records import DeletionRequest
from storage.log.files import create_once, make_folder, sync_folder
from storage.log.index_log import release_reserve
from storage.log.segments.disk import DiskErrors

_SUFFIX = ".json"


class DeletionRequests:
    """The requests below the folder of the log of the index role."""

    def __init__(self, index_log: Path) -> None:
        self._log = index_log
        self._folder = index_log / "requests"

    def leave(self, request: DeletionRequest) -> None:
        """Keep a request, durably. Raises StorageFull or Retriable."""
        content = json.dumps(request.to_json()).encode()
        try:
            self._create(request.key, content)
        except StorageFull:
            if not release_reserve(self._log):
                raise
            self._create(request.key, content)

    def all(self) -> list[DeletionRequest]:
        """Return the requests, the oldest first."""
        paths = self._folder.glob(f"[0-9a-f]*{_SUFFIX}")
        return sorted((_read(path) for path in paths), key=lambda request: request.at)

    def is_waiting(self, key: str) -> bool:
        return self._path(key).exists()

    def remove(self, key: str) -> None:
        """Remove a request that was carried out or refused."""
        with DiskErrors():
            self._path(key).unlink(missing_ok=True)
            sync_folder(self._folder)

    def _create(self, key: str, content: bytes) -> None:
        with DiskErrors():
            make_folder(self._folder)
            create_once(self._path(key), content)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"


def _read(path: Path) -> DeletionRequest:
    return DeletionRequest.from_json(json.loads(path.read_bytes()))
