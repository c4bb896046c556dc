"""The drawing of the error tree shows every error of the three packages below its parent."""

import ast
import re
from pathlib import Path

import dicom_node.errors

ROOT = Path(__file__).parents[1]


def defined() -> dict[str, str]:
    """Return the parent of every class in the packages that derives from NodeError."""
    parents = {
        node.name: base.id
        for package in ("dicom_node", "inference", "storage")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    found = {"NodeError"}
    while more := {name for name, parent in parents.items() if parent in found} - found:
        found |= more
    return {name: parents[name] for name in found - {"NodeError"}}


def drawn() -> dict[str, str]:
    """Return the parent of every class in the drawing."""
    parents: dict[str, str] = {}
    above = {-1: "NodeError"}
    assert dicom_node.errors.__doc__ is not None
    for branches, name in re.findall(r"^([│├└─ ]*)[├└]── (\w+)", dicom_node.errors.__doc__, re.MULTILINE):
        depth = len(branches) // 4
        above[depth] = name
        parents[name] = above[depth - 1]
    return parents


def test_the_drawing_shows_every_error_below_its_parent() -> None:
    assert len(drawn()) > 10
    assert drawn() == defined()
