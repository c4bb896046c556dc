"""A table of what the gate measures: `python -m inference.gate REFERENCE FOLDER...`.

The table has a row for each volume in the series of each folder: the measurements, their limits and the verdict.
"""

import argparse
from pathlib import Path

import numpy as np

from inference.gate.assessment import assess
from inference.gate.image_quality import METRICS
from inference.gate.reference import load_reference
from inference.volumes.reading import read_volumes
from storage.blobs import file_blobs
from storage.errors import InputRefused


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m inference.gate.reference", description=__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="the files of one series")
    arguments = parser.parse_args()
    reference = load_reference(arguments.reference)
    limits = [*(reference.limits.get(name, np.nan) for name in METRICS), reference.limit]
    print(_row("series", *METRICS, "distance", "verdict"))
    print(_row("limit", *limits))
    for folder in arguments.folders:
        try:
            volumes = read_volumes(file_blobs(sorted(path for path in folder.iterdir() if path.is_file())))
        except InputRefused as error:
            print(_row(folder, f"{error.why}: {error}"))
            continue
        for volume in volumes:
            quality = assess(volume, reference)
            verdict = "; ".join(f"{r.why}: {r.explanation}" for r in quality.refusals) or "accepted"
            print(_row(folder, *(quality.metrics[name] for name in METRICS), quality.distance, verdict))


def _row(*cells: object) -> str:
    return "\t".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)


if __name__ == "__main__":
    main()
