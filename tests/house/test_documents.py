"""The files and folders that the documents name."""

import re

from tests.house.source import REPOSITORY, documents, place

NAMED = re.compile(r"`((?:dicom_node|inference|storage|tests|config|systemd|benchmarks|docs)/[\w./-]*)`")


def test_what_the_documents_name_is_there() -> None:
    missing = [
        f"{place(path)}: {name}"
        for path in documents()
        if path.name != "CHANGELOG.md"
        for name in NAMED.findall(path.read_text(encoding="utf-8"))
        if not (REPOSITORY / name).exists()
    ]
    assert missing == []


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{place(path)}: {target}"
        for path in documents()
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_the_first_pages_are_short() -> None:
    lines = {name: len((REPOSITORY / name).read_text().splitlines()) for name in ("README.md", "docs/architecture.md")}
    assert lines["README.md"] <= 150
    assert lines["docs/architecture.md"] <= 200
