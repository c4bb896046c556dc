"""Who may know that an instance is a file: everybody else reads through `Blob`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.house.source import modules, parsed, place

MAKERS = {"FileBlob", "file_blobs"}
READERS = {"dcmread", "read_partial", "read_file_meta_info"}  # of pydicom; they take a path as well
HAVE_FILES_OF_THEIR_OWN = (
    "dicom_node/demo/",
    "dicom_node/cli/try_out.py",
    "inference/gate/__main__.py",
    "inference/training/",
)
READ_OPEN_BLOBS = {"inference/headers/reading.py", "inference/headers/pixels.py"}


def imported(path: Path) -> set[str]:
    nodes = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in nodes for alias in node.names}


def others() -> Iterator[Path]:
    """The modules outside `storage` that read instances of the archive and result objects."""
    for path in modules("dicom_node", "inference"):
        if not place(path).startswith(HAVE_FILES_OF_THEIR_OWN):
            yield path


def test_storage_makes_the_blobs() -> None:
    assert [place(path) for path in others() if imported(path) & MAKERS] == []


def test_pydicom_reads_from_open_blobs() -> None:
    assert {place(path) for path in others() if imported(path) & READERS} == READ_OPEN_BLOBS
    for path in READ_OPEN_BLOBS:
        module = next(p for p in others() if place(p) == path)
        calls = [n for n in ast.walk(parsed(module)) if isinstance(n, ast.Call)]
        read = [ast.unparse(n.args[0]) for n in calls if isinstance(n.func, ast.Name) and n.func.id in READERS]
        assert set(read) == {"file"}, path
