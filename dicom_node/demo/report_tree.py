"""A Structured Report as a tree to read on a terminal (PS3.3 C.17.3)."""

from pydicom.dataset import Dataset
from rich.text import Text
from rich.tree import Tree

SHORT_UID = 24
# Code values of content items that say the same in every measurement group (TID 1419, 4019): they are left out.
REPEATED = frozenset({"112039", "112040", "111001", "111003", "122405"})
TRACKING_IDENTIFIER = "112039"
MEASUREMENT_GROUP = "125007"
MANY_IMAGES = 5


def report_tree(ds: Dataset) -> Tree:
    """Return the content tree of an SR: names, values, units, and what references what."""
    tree = Tree(Text(f"{_name(ds)}  ({ds.get('SeriesDescription', '')})", style="bold"))
    tree.add(Text(f"{ds.CompletionFlag}, {ds.VerificationFlag}, {ds.get('PreliminaryFlag', '')}", style="yellow"))
    _add(tree, ds)
    return tree


def _add(tree: Tree, item: Dataset) -> None:
    images = [child for child in item.get("ContentSequence", []) if child.ValueType == "IMAGE"]
    many = len(images) > MANY_IMAGES
    if many:
        tree.add(Text(f"{len(images)} images, the first: {_value(images[0])}"))
    for child in item.get("ContentSequence", []):
        if many and child.ValueType == "IMAGE":
            continue
        if _code(item) == MEASUREMENT_GROUP and _code(child) in REPEATED:
            continue
        if child.ValueType in ("SCOORD", "SCOORD3D"):
            tree.add(Text(f"{child.GraphicType} of {len(child.GraphicData) // 2} points", style="dim"))
            continue
        node = tree.add(_line(child))
        _add(node, child)


def _line(item: Dataset) -> Text:
    value = _value(item)
    if item.ValueType == "CONTAINER":
        tracked = [str(c.TextValue) for c in item.get("ContentSequence", []) if _code(c) == TRACKING_IDENTIFIER]
        return Text(": ".join([_name(item), *tracked]), style="bold")
    style = "cyan" if item.ValueType == "NUM" else ""
    return Text.assemble((f"{_name(item)}: " if _name(item) else "", "dim"), (value, style))


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeMeaning) if names else ""


def _code(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""


def _value(item: Dataset) -> str:
    match item.ValueType:
        case "NUM":
            if not item.MeasuredValueSequence:
                qualifiers = item.get("NumericValueQualifierCodeSequence")
                return f"missing ({qualifiers[0].CodeMeaning if qualifiers else 'no reason given'})"
            measured = item.MeasuredValueSequence[0]
            return f"{float(measured.NumericValue):g} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
        case "CODE":
            return str(item.ConceptCodeSequence[0].CodeMeaning)
        case "TEXT":
            return str(item.TextValue)
        case "UIDREF":
            return _shortened(str(item.UID))
        case "PNAME":
            return "(person)"  # the terminal shows nobody's name
        case "IMAGE" | "COMPOSITE":
            reference = item.ReferencedSOPSequence[0]
            frames = reference.get("ReferencedFrameNumber")
            segments = reference.get("ReferencedSegmentNumber")
            return (
                f"{reference.ReferencedSOPClassUID.name} {_shortened(str(reference.ReferencedSOPInstanceUID))}"
                + (f", segment {segments}" if segments else "")
                + (f", frame {frames}" if frames else "")
            )
        case "DATETIME" | "DATE" | "TIME":
            return str(item.get("DateTime") or item.get("Date") or item.get("Time"))
        case _:
            return ""


def _shortened(uid: str) -> str:
    return uid if len(uid) <= SHORT_UID else f"…{uid[-SHORT_UID:]}"
