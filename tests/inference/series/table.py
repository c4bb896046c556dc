"""A table of the labelled series and of what the recogniser makes of them, and the summary in docs/series.md.

`python -m tests.inference.series.table [FOLDER]` prints both. FOLDER is that of the test data.
"""

import os
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from inference.series.recogniser import Recognition, read_headers, recognise_headers
from storage.blobs import file_blobs

LABELS = {"mr": Path(__file__).with_name("labels.toml"), "../cases/mr": Path(__file__).with_name("cases.toml")}
DATA = Path(os.environ.get("DICOM_NODE_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
NAMES = (
    "SeriesDescription", "ProtocolName", "StudyDescription", "PerformedProcedureStepDescription",
    "RequestedProcedureDescription", "DerivationDescription", "PerformedProtocolCodeSequence",
    "RequestAttributesSequence", "ProcedureCodeSequence",
)  # fmt: skip
VENDORS = {"SIEMENS": "Siemens", "GE": "GE", "PHILIPS": "Philips", "CANON": "Canon", "UIH": "UIH", "HITACHI": "Hitachi"}
PROTOCOL_AS_SEQUENCE = "CANON"  # writes the protocol's name into PulseSequenceName


@dataclass(frozen=True)
class Row:
    label: dict[str, Any]
    named: Recognition
    blanked: Recognition  # without any name
    vendor: str

    @property
    def right(self) -> bool:
        return self.named.kind == self.label["kind"]

    @property
    def right_blanked(self) -> bool:
        return self.blanked.kind == self.label["kind"]

    @property
    def left_open(self) -> bool:
        """True for a series whose header does not tell its kind without names."""
        return bool(self.label.get("open", False))

    @property
    def untrue(self) -> tuple[str, ...]:
        """Names of what is told wrongly of the series with its names; a header may leave `fat_suppressed` open."""
        label, found = self.label, self.named
        told = {
            "kind": self.right,
            "plane": found.plane == label.get("plane"),
            "contrast": found.contrast == label.get("contrast", found.contrast),
            "b_values": found.b_values == tuple(label.get("b_values", ())),
            "fat_suppressed": found.fat_suppressed in (None, label.get("fat_suppressed", found.fat_suppressed)),
        }
        return tuple(name for name, true in told.items() if not true)


def labels(which: str) -> list[dict[str, Any]]:
    """Return the labels of a folder of the test data."""
    found: list[dict[str, Any]] = tomllib.loads(LABELS[which].read_text(encoding="utf-8"))["series"]
    return found


def rows(data: Path) -> Iterator[Row]:
    """Yield the row of every label. Raises KeyError for a series without a label, and for a label without a series."""
    for which in LABELS:
        if (data / which).is_dir():
            yield from _rows(data / which, labels(which))


def _rows(folder: Path, labelled: Sequence[dict[str, Any]]) -> Iterator[Row]:
    for path in sorted({label["folder"] for label in labelled}):
        by_uid: defaultdict[str, list[Dataset]] = defaultdict(list)
        for ds in read_headers(file_blobs(sorted(p for p in (folder / path).iterdir() if p.is_file()))):
            by_uid[str(ds.get("SeriesInstanceUID", ""))].append(ds)
        for label in [label for label in labelled if label["folder"] == path]:
            headers = by_uid.pop(label.get("series", next(iter(by_uid))))
            named, vendor = recognise_headers(headers), vendor_of(headers[0])
            yield Row(label, named, recognise_headers([blanked(ds) for ds in headers]), vendor)
        if by_uid:
            raise KeyError(f"series without a label in {path}: {', '.join(by_uid)}")


def vendor_of(ds: Dataset) -> str:
    maker = str(ds.get("Manufacturer") or "").upper()
    return next((name for start, name in VENDORS.items() if maker.startswith(start)), "others")


def folders(folder: Path) -> set[str]:
    """Return the folders below `folder` that hold files, relative to it."""
    return {str(path.parent.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def blanked(ds: Dataset) -> Dataset:
    """Delete what people named the series from its header, in place, and return it."""
    for keyword in NAMES:
        if keyword in ds:
            delattr(ds, keyword)
    if str(ds.get("Manufacturer", "")).startswith(PROTOCOL_AS_SEQUENCE) and "PulseSequenceName" in ds:
        del ds.PulseSequenceName
    return ds


def printed(table: Sequence[Row]) -> Iterator[str]:
    yield f"{'series':50} {'is':16} {'recognised as':22} {'without names':22} {'plane':9} fat suppressed"
    for row in table:
        where = row.label["folder"] + (" " + row.label["series"][18:25] if "series" in row.label else "")
        cells = [
            f"{'' if right else '! '}{found.kind} {found.confidence:.2f}"
            for right, found in ((row.right, row.named), (row.right_blanked, row.blanked))
        ]
        fat = {True: "yes", False: "no", None: "?"}
        told = f"{fat[row.named.fat_suppressed]} (is: {fat[row.label.get('fat_suppressed')]})"
        yield f"{where:50} {row.label['kind']:16} {cells[0]:22} {cells[1]:22} {row.named.plane or '':9} {told}"
    yield from counted(table)


def counted(table: Sequence[Row]) -> Iterator[str]:
    """Yield the summary in Markdown: kinds by vendors, each with how many series are right, named and blanked."""
    vendors = [vendor for vendor in (*VENDORS.values(), "others") if any(row.vendor == vendor for row in table)]
    yield f"| kind | {' | '.join(vendors)} | all |"
    yield "|---" * (len(vendors) + 2) + "|"
    for kind in [*sorted({row.label["kind"] for row in table}), None]:
        chosen = [row for row in table if kind in (None, row.label["kind"])]
        cells = [_cell([row for row in chosen if row.vendor == vendor]) for vendor in vendors]
        yield f"| {kind or 'all'} | {' | '.join(cells)} | {_cell(chosen)} |"


def _cell(table: Sequence[Row]) -> str:
    named, without = sum(row.right for row in table), sum(row.right_blanked for row in table)
    if not table:
        return ""
    return f"{named} / {len(table)}" + (f", blanked {without} / {len(table)}" if without != named else "")


if __name__ == "__main__":
    print(*printed(list(rows(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA))), sep="\n")
