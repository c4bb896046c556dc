"""Mistakes in the configuration as lines to read: the key, the value, what is allowed, and the nearest valid name."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dicom_node.deliver.destinations.registry import DESTINATION_KINDS, AnyDestination, destination_kind
from dicom_node.settings.model import ApplicationSettings, SeriesSettings, Settings
from inference.contract.manifest import known_applications, takes_bundle


def inconsistencies(raw: Mapping[str, Any]) -> list[str]:
    """List names that are used twice or that refer to nothing, and keys that need other keys.

    The search is in `raw`, the configuration as written, so that mistakes elsewhere hide none of these.
    """
    mistakes = []
    applications = _tables(raw, "applications")
    destinations = _texts(d.get("name") for d in _tables(raw, "destinations"))
    labels = _texts(a.get("name") or a.get("id") for a in applications)
    for what, names in (("destinations", destinations), ("applications", labels)):
        mistakes += [
            f"{what}: the name {n!r} is used {names.count(n)} times; names must differ"
            for n in dict.fromkeys(names)
            if names.count(n) > 1
        ]
    mistakes += [
        f"peers[{i}].commitment = 'new': needs `port`, where the peer listens for the reports"
        for i, peer in enumerate(_tables(raw, "peers"))
        if peer.get("commitment") == "new" and peer.get("port") is None
    ]
    mistakes += [
        f"series[{i}]: names no series; give at least one of {', '.join(SeriesSettings.PATTERNS)}"
        for i, entry in enumerate(_tables(raw, "series"))
        if not any(entry.get(key) for key in SeriesSettings.PATTERNS)
    ]
    for i, destination in enumerate(_tables(raw, "destinations")):
        if kind := DESTINATION_KINDS.get(destination_kind(destination)):
            mistakes += kind.contradictions(f"destinations[{i}]", destination)
    known = known_applications()
    allowed = list(dict.fromkeys(destinations))
    completion = raw.get("completion")
    source = completion.get("source") if isinstance(completion, dict) else None
    if isinstance(source, str):
        mistakes += _source_mistakes(source, _tables(raw, "destinations"))
    for i, application in enumerate(applications):
        name = application.get("id")
        if isinstance(name, str) and name not in known:
            mistakes.append(
                f"applications[{i}].id = {name!r}: there is no such application; "
                f"allowed: {', '.join(known)}{did_you_mean(name, known)}"
            )
        elif isinstance(name, str):
            mistakes += _bundle_mistakes(f"applications[{i}].bundle", name, application.get("bundle"))
        wanted = application.get("destinations")
        mistakes += [
            f"applications[{i}].destinations = {d!r}: no [[destinations]] has this name; "
            f"allowed: {', '.join(allowed) or 'none is defined'}{did_you_mean(d, allowed)}"
            for d in _texts(wanted if isinstance(wanted, list | tuple) else ())
            if d not in allowed
        ]
    return mistakes


def _source_mistakes(source: str, destinations: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    kinds = {d["name"]: destination_kind(d) for d in destinations if isinstance(d.get("name"), str)}
    allowed = [name for name, kind in kinds.items() if kind == "dimse"]
    if source not in allowed:
        told = "no [[destinations]] has this name"
        if source in kinds:
            told = f"this destination is of kind {kinds[source]!r}, and only one of kind 'dimse' is asked with C-FIND"
        yield (
            f"completion.source = {source!r}: {told}; "
            f"allowed: {', '.join(allowed) or 'none is defined'}{did_you_mean(source, allowed)}"
        )


def _bundle_mistakes(key: str, application: str, bundle: Any) -> list[str]:
    if takes_bundle(application) and bundle is None:
        return [f"{key}: the application {application!r} needs the folder of a model"]
    if not takes_bundle(application) and bundle is not None:
        return [
            f"{key} = {bundle!r}: the application {application!r} has a model of its own and takes none; remove "
            "`bundle`, or set id = 'segmentation'"
        ]
    return []


def _texts(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def describe_error(error: Mapping[str, Any]) -> str:
    """Return one validation error of pydantic as a line: key, value, what is allowed, nearest name."""
    location = _as_written(tuple(error["loc"]))
    key = _dotted(location)
    if error["type"] == "extra_forbidden":
        names = _names_beside(tuple(error["loc"]))
        return f"{key}: there is no such key; allowed: {', '.join(names)}{did_you_mean(str(location[-1]), names)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    if error["type"] == "union_tag_invalid":
        kinds = list(DESTINATION_KINDS)
        given = str(error["ctx"]["tag"])
        return f"{key}.kind = {given!r}: there is no such kind; allowed: {', '.join(kinds)}{did_you_mean(given, kinds)}"
    if error["type"] == "model_type":
        return f"{key}: must be a section, [{key}], with keys of its own"
    if error["type"] == "tuple_type" and len(location) == 1:
        return f"{key}: must be a list of tables, each under [[{key}]] in double brackets"
    message = str(error["msg"]).removeprefix("Value error, ")
    suggestion = ""
    if error["type"] == "literal_error":
        suggestion = did_you_mean(str(error["input"]), str(error["ctx"]["expected"]).replace("'", "").split(" or "))
    if error["type"] == "enum":
        suggestion = did_you_mean(str(error["input"]), re.findall(r"'([^']+)'", str(error["ctx"]["expected"])))
    if error.get("input") is None or "url" in key:  # never echo a value that may hold a password
        return f"{key}: {message}"
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}{suggestion}"


def _as_written(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the location without the kind that pydantic puts behind the number of a destination."""
    if location[:1] == ("destinations",) and len(location) > 2:
        return (*location[:2], *location[3:])
    return location


def _dotted(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _names_beside(location: tuple[str | int, ...]) -> list[str]:
    """Return the names that are valid in the place of an unknown one."""
    if location[0] == "destinations":
        return list(DESTINATION_KINDS[str(location[2])].model_fields)
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(a for a in (*get_args(annotation), annotation) if isinstance(a, type) and issubclass(a, BaseModel))
    return list(model.model_fields)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a suggestion of the nearest valid name; an empty text if no name is near."""
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def right_destinations(raw: Mapping[str, Any]) -> Iterator[AnyDestination]:
    """Yield the `[[destinations]]` entries without a mistake of their own, whatever is wrong elsewhere."""
    for entry in _tables(raw, "destinations"):
        settings = DESTINATION_KINDS.get(destination_kind(entry))
        if settings is None or any(settings.contradictions("", entry)):
            continue
        with suppress(ValidationError):
            yield settings.model_validate(entry)


def right_applications(raw: Mapping[str, Any]) -> Iterator[ApplicationSettings]:
    """Yield the `[[applications]]` entries without a mistake of their own, whatever is wrong elsewhere."""
    known = known_applications()
    for entry in _tables(raw, "applications"):
        with suppress(ValidationError):
            application = ApplicationSettings.model_validate(entry)
            if application.id in known and not _bundle_mistakes("", application.id, application.bundle):
                yield application


def _tables(raw: Mapping[str, Any], section: str) -> list[dict[str, Any]]:
    """Return the entries of a list of tables; an entry that is not a table becomes an empty one."""
    listed = raw.get(section, ())
    return [e if isinstance(e, dict) else {} for e in listed] if isinstance(listed, list | tuple) else []
