"""The actions of log lines: each names an outcome, and stands in docs/logging.md."""

import ast
import re
from collections.abc import Iterator

from tests.house.source import PACKAGES, REPOSITORY, modules, parsed, place

DOCUMENT = REPOSITORY / "docs" / "logging.md"


def literals(argument: ast.expr) -> list[str]:
    """Return the texts that an argument may be; an empty one for what is computed."""
    match argument:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return literals(body) + literals(orelse)
        case ast.Name(id="action"):  # the parameter of a function whose calls are looked at instead
            return []
    return [""]


def actions() -> Iterator[tuple[str, str]]:
    """Yield the place and the action of each log line."""
    for path in modules(*PACKAGES):
        text = path.read_text(encoding="utf-8")
        if "from dicom_node.runtime.logs import" not in text and "logging.getLogger" not in text:
            continue  # another `fields`: that of dataclasses
        for node in ast.walk(parsed(path)):
            found: list[ast.expr] = []
            match node:
                case ast.Call(func=ast.Name(id="fields" | "_extra"), args=[first, *_]):
                    found = [first]
                case ast.Dict(keys=[ast.Constant(value="action"), *_], values=[first, *_]):
                    found = [first]  # in storage, which has no `fields`
                case ast.Assign(targets=[ast.Name(id="action")], value=ast.Call(args=[_, last])):
                    found = [last]  # of a table, with what else it may be
                case ast.Assign(targets=[ast.Name(id="_ACTIONS")], value=ast.Dict(values=values)):
                    found = values
            for text in (text for argument in found for text in literals(argument)):
                yield f"{place(path)}:{node.lineno}", text


def documented() -> set[str]:
    return set(re.findall(r"^\| `([a-z_]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.M))


def test_the_document_lists_every_action_and_no_other() -> None:
    assert documented() == {action for _, action in actions()}


def test_an_action_is_a_literal_of_several_words() -> None:
    assert [found for found in actions() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", found[1])] == []
