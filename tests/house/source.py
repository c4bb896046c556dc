"""The source files that the house rules are about."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("dicom_node", "inference", "storage")


def modules(*folders: str) -> list[Path]:
    """Return every Python file below these folders of the repository, migrations left out, sorted."""
    found = (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return sorted(path for path in found if "migrations" not in path.parts)


def place(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def documents() -> list[Path]:
    """Return every Markdown file of the repository."""
    top = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "benchmarks").rglob("*.md")]
    return sorted([*top, *(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.md"))])


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring of a module."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text
