"""Recognised series as a tree: the kind of each series, and the reasons."""

from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree

from inference.series.recogniser import Recognition
from storage.records.jobs import SIDE_NAMES


def series_tree(found: Sequence[Recognition]) -> Tree:
    tree = Tree("[bold]Series[/]")
    for s in found:
        node = tree.add(Text(f"{s.series_instance_uid}: {_known(s)} (confidence {s.confidence:.2f})"))
        for reason in (*s.reasons, s.problem, s.differences):
            if reason:
                node.add(Text(reason))
    return tree


def _known(s: Recognition) -> str:
    known = [
        s.modality,
        str(s.kind),
        f"{SIDE_NAMES[s.laterality]} side" if s.laterality else "",
        s.plane,
        s.dimension,
        f"{s.slices} slices",
        {True: "fat suppressed", False: "not fat suppressed", None: ""}[s.fat_suppressed],
        "with contrast agent" if s.contrast else "",
        s.phase,
        f"{s.phases} phases" if s.phases > 1 else "",
        "b = " + ", ".join(f"{b:g}" for b in s.b_values) if s.b_values else "",
    ]
    return ", ".join(filter(None, known))
