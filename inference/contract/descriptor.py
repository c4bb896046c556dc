"""The validation of descriptors (`application.toml`, `bundle.toml`).

All mistakes are reported together, each with its key, its value, what is allowed, and the nearest valid name.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Schema = TypeVar("Schema", bound=BaseModel)
Location = tuple[str | int, ...]

_WORDS = {
    "int_type": "must be a whole number, without quotation marks",
    "float_type": "must be a number, without quotation marks",
    "bool_type": "must be true or false, without quotation marks",
    "string_type": "must be a text in quotation marks",
    "tuple_type": "must be a list in square brackets",
}
_TABLE = frozenset({"model_type", "dataclass_type", "dict_type"})
_UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


def validated(schema: type[Schema], raw: Mapping[str, Any]) -> tuple[Schema | None, list[str]]:
    """Return parsed TOML as an instance of `schema`, and no mistakes; or None and every mistake.

    Nothing is converted silently.
    """
    try:
        # JSON is a detour that strict validation needs: of Python's own values, it takes no list for a tuple.
        return schema.model_validate_json(json.dumps(raw, default=str), strict=True), []
    except ValidationError as error:
        told = [e for e in error.errors() if not _is_echo(dict(e))]
        return None, [_told(schema, {**e, "loc": _place(raw, e["loc"])}) for e in told]


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggest the valid name that was probably meant; return an empty text if none is near."""
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_echo(error: Mapping[str, Any]) -> bool:
    """Return True if a list is called too short only because its items are wrong, which is reported already."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _place(raw: Any, location: Location) -> Location:
    """Cut a location to the part that the file has: a value that stands for a list of one has no index there."""
    for depth, part in enumerate(location):
        if isinstance(part, int) and not isinstance(raw, list):
            return location[:depth]
        if isinstance(raw, Mapping):
            raw = raw.get(part)
        else:  # an item that is missing lies behind the end of its list
            raw = raw[part] if isinstance(part, int) and part < len(raw) else None
    return location


def _told(schema: type[Any], error: Mapping[str, Any]) -> str:
    location: Location = tuple(error["loc"])
    key = ".".join(str(part) for part in location) or "the file"
    value = error["input"]
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] in _UNKNOWN:
        names = _names(schema, location[:-1])
        return f"there is no key {key}; allowed: {', '.join(names)}{nearest(str(location[-1]), names)}"
    if error["type"] in _TABLE:
        return f"{key} = {value!r}: must be a table [{key}]; its keys: {', '.join(_names(schema, location))}"
    if error["type"] in ("enum", "literal_error"):
        allowed = [word.strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"{key} = {value!r}; allowed: {', '.join(allowed)}{nearest(str(value), allowed)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    words = _WORDS.get(error["type"], message[0].lower() + message[1:])
    return f"{key}: {words}" if isinstance(value, dict | list) else f"{key} = {value!r}: {words}"


def _names(schema: type[Any], location: Location) -> list[str]:
    """List the keys that `schema` allows in the table at `location`."""
    for part in location:
        if isinstance(part, str):
            schema = next(_schemas(_fields(schema).get(part)), schema)
    return list(_fields(schema))


def _fields(schema: type[Any]) -> dict[str, Any]:
    """Map every key that `schema` allows to the annotation of its value."""
    if issubclass(schema, BaseModel):
        return {name: field.annotation for name, field in schema.model_fields.items()}
    return {field.name: field.type for field in dataclasses.fields(schema)}


def _schemas(annotation: Any) -> Any:
    """Yield the schemas inside an annotation: itself, a member of a union, or the items of a list."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and (issubclass(candidate, BaseModel) or dataclasses.is_dataclass(candidate)):
            yield candidate
