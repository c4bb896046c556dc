"""The words of docstrings and of public names."""

import ast
from collections import defaultdict

from tests.house.source import PACKAGES, docstrings, modules, parsed, place

# Ruff's D401 knows which verbs are not imperative. It does not see that there is no verb at all.
RIDDLES = {
    "about", "as", "because", "between", "for", "from", "how", "in", "into", "not", "of", "on", "one",
    "only", "says", "that", "those", "to", "what", "when", "where", "whether", "which", "who", "whose", "why", "with",
    "without",
}  # fmt: skip

# One public name has one meaning. These are the names of one role that several modules play.
SHARED = {
    "create": "every application's module offers it to the engine",
    "run": "every training offers it to `python -m inference.training`",
    "main": "every entry point",
    "Settings": "every training's own options",
}


def test_docstrings_do_not_begin_with_a_riddle() -> None:
    found = [
        f"{place(path)}:{line}: {text.split()[0]}"
        for path in modules(*PACKAGES)
        for line, text in docstrings(path)
        if text.split()[0].lower().strip(",:") in RIDDLES
    ]
    assert found == []


def test_a_public_name_has_one_meaning() -> None:
    places = defaultdict(list)
    for path in modules(*PACKAGES):
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(place(path))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED} == {}
    assert [name for name in SHARED if len(places[name]) < 2] == []
