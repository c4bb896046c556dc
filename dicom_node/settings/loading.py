"""Loading of the configuration: one TOML file, overridden by the environment (`DICOM_NODE__RECEIVE__PORT=11113`).

Relative paths in the file are relative to the file's own folder.
"""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from dicom_node.deliver.destinations.registry import AnyDestination
from dicom_node.errors import ConfigurationError
from dicom_node.settings.mistakes import (
    describe_error,
    did_you_mean,
    inconsistencies,
    right_applications,
    right_destinations,
)
from dicom_node.settings.model import ENVIRONMENT_PREFIX, ApplicationSettings, NodeSettings, Settings, WorkSettings

SEARCHED = (Path("node.toml"), Path("config/node.toml"), Path("/etc/dicom-node/node.toml"))


@dataclass(frozen=True)
class Inspection:
    """A configuration as far as it can be read.

    `settings` is None if there are `mistakes`. So that mistakes in one place hide none in another, `destinations` and
    `applications` are the entries without a mistake of their own, and `devices` and `data_dir` the values of these
    keys.
    """

    mistakes: tuple[str, ...]
    settings: Settings | None = None
    destinations: tuple[AnyDestination, ...] = ()
    applications: tuple[ApplicationSettings, ...] = ()
    devices: str | None = None
    data_dir: Path | None = None


def find_config() -> Path | None:
    """Return the file that is used without `--config`: `DICOM_NODE_CONFIG`, or the first of SEARCHED that exists."""
    if named := os.environ.get("DICOM_NODE_CONFIG"):
        return Path(named)
    return next((path for path in SEARCHED if path.is_file()), None)


def load_settings(path: Path | None) -> Settings:
    """Load the settings from `path` (None: defaults) and the environment.

    Raises ConfigurationError with every mistake.
    """
    found = inspect_config(path)
    if found.settings is None:
        raise ConfigurationError(list(found.mistakes))
    return found.settings


def inspect_config(path: Path | None) -> Inspection:
    """Read `path` (None: defaults) and the environment, and find every mistake in them."""
    raw: dict[str, Any] = {}
    folder = Path.cwd()
    if path is not None:
        try:
            raw = _read(path)
        except ConfigurationError as error:
            return Inspection((*error.mistakes, *_unknown_environment()))
        folder = path.resolve().parent
    environment, mistakes = _environment()
    raw = _merged(raw, environment)  # the environment wins over the file
    mistakes += _unknown_environment()
    settings = None
    try:
        settings = Settings(**raw)
    except ValidationError as error:
        mistakes += [describe_error(e) for e in error.errors()]
    mistakes += inconsistencies(raw)
    return Inspection(
        mistakes=tuple(mistakes),
        settings=None if mistakes or settings is None else _anchor(settings, folder),
        destinations=tuple(d.anchored(folder) for d in right_destinations(raw)),
        applications=tuple(a.anchored(folder) for a in right_applications(raw)),
        devices=_setting(raw, "work", "devices", WorkSettings()),
        data_dir=(folder / str(_setting(raw, "node", "data_dir", NodeSettings()))).resolve(),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            [f"{path}: cannot be read ({error.strerror}); name another file with --config"]
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: not valid TOML: {error}"]) from None


def _anchor(settings: Settings, folder: Path) -> Settings:
    """Return the settings with absolute paths: relative ones start at `folder`."""
    return settings.model_copy(
        update={
            "node": settings.node.anchored(folder),
            "destinations": tuple(d.anchored(folder) for d in settings.destinations),
            "applications": tuple(a.anchored(folder) for a in settings.applications),
        }
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _setting(raw: Mapping[str, Any], section: str, key: str, default: BaseModel) -> str:
    """Return the text of one key; other keys of its section may hold mistakes."""
    given = raw.get(section)
    value = given.get(key) if isinstance(given, dict) else None
    return value if isinstance(value, str) else str(getattr(default, key))


def _environment() -> tuple[dict[str, Any], list[str]]:
    """Return the values that the environment gives, by section, and the mistakes in it."""
    source = EnvSettingsSource(Settings)
    mistakes = []
    for section in Settings.model_fields:
        variable = f"{ENVIRONMENT_PREFIX}{section}"
        value = source.env_vars.get(variable.lower())
        if value is None:
            continue
        listed = section in ("peers", "destinations", "applications", "series")
        if not isinstance(_json(value), list if listed else dict):
            way_out = (
                "it must be a JSON list of tables"
                if listed
                else f"it is a section; set one of its keys, as in {variable.upper()}__"
                f"{next(iter(_section_keys(section))).upper()}"
            )
            shown = "" if section in ("node", "destinations") else f" = {value!r}"  # these may hold a password
            mistakes.append(f"{variable.upper()} (environment){shown}: {way_out}")
            source.env_vars = {k: v for k, v in source.env_vars.items() if k != variable.lower()}
    try:
        return source(), mistakes
    except SettingsError as error:
        return {}, [*mistakes, f"{ENVIRONMENT_PREFIX}* (environment): {error}"]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _section_keys(section: str) -> Iterator[str]:
    annotation = Settings.model_fields[section].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    yield from annotation.model_fields


def _unknown_environment() -> Iterator[str]:
    """Yield a mistake for each variable of an unknown section, because pydantic-settings drops it silently."""
    for name in os.environ:
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            section = name[len(ENVIRONMENT_PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                hint = did_you_mean(section, Settings.model_fields)
                yield f"{name} (environment): there is no section {section!r}{hint}"
