"""Typed settings from one TOML file, overridden by the environment (`DICOM_NODE__RECEIVE__PORT=11113`).

Loading reports every mistake at once: the key, the value, what is allowed, and the nearest valid name.
Relative paths in the file are relative to the file's own folder.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from dicom_node.catalogue import ApplicationEntry
from dicom_node.deliver.destinations.registry import DESTINATION_KINDS, AnyDestination, destination_kind
from dicom_node.errors import ConfigurationError
from dicom_node.read.folders import NodeFolders
from dicom_node.read.stores import StoresConfig
from dicom_node.runtime.configuration import AETitle, Port, Seconds, Section
from inference.contract.manifest import known_applications, takes_bundle
from inference.series.kinds import Kind as SeriesKind
from inference.series.site_table import SiteRule
from storage.tables.database.connection import default_url

ENVIRONMENT_PREFIX = "DICOM_NODE__"
SEARCHED = (Path("node.toml"), Path("config/node.toml"), Path("/etc/dicom-node/node.toml"))


class NodeSettings(Section):
    ae_title: AETitle = "DICOM_NODE"
    data_dir: Path = Path("data")
    database_url: SecretStr | None = None


class ReceiveSettings(Section):
    host: str = "0.0.0.0"  # noqa: S104 - scanners are on other machines
    port: Port = 11112
    processes: int = Field(1, ge=1, le=64)
    maximum_associations: int = Field(50, ge=1, le=1000)
    network_timeout_seconds: Seconds = 60
    minimum_free_megabytes: float = Field(1024, ge=0, allow_inf_nan=False)


class CompletionSettings(Section):
    quiet_seconds: Seconds = 30
    released_seconds: Seconds | None = None
    settled_seconds: Seconds = 2
    maximum_age_seconds: Seconds = 3600
    source: str | None = None


class WorkSettings(Section):
    devices: str = "auto"
    maximum_attempts: int = Field(3, ge=1, le=1000)
    job_timeout_seconds: Seconds = 1800
    heartbeat_seconds: float = Field(5, gt=0, le=3600, allow_inf_nan=False)


class DispatchSettings(Section):
    maximum_attempts: int = Field(12, ge=1, le=1000)
    first_retry_seconds: Seconds = 5
    longest_retry_seconds: Seconds = 900
    timeout_seconds: Seconds = 30
    commitment_timeout_seconds: Seconds = 600


class PeerSettings(Section):
    ae_title: AETitle
    host: str | None = None
    services: tuple[Literal["echo", "store", "commitment", "mpps"], ...] | None = None
    maximum_associations: int | None = Field(None, ge=1)
    maximum_pdu_bytes: int | None = Field(None, ge=4096, le=4 * 2**20)
    port: Port | None = None
    commitment: Literal["same", "new"] = "same"
    priority: int = Field(0, ge=0, le=9)


class ApplicationSettings(Section):
    id: str
    name: str = ""
    bundle: Path | None = None
    start: Literal["study", "inputs"] = "study"
    no_result: Literal["always", "failures", "never"] = "always"
    options: dict[str, bool] = Field(default_factory=dict)
    destinations: tuple[str, ...] = Field(min_length=1)

    @property
    def label(self) -> str:
        """The name jobs carry: `name`, or `id` where none is given."""
        return self.name or self.id

    @property
    def entry(self) -> ApplicationEntry:
        return ApplicationEntry(
            id=self.id,
            name=self.label,
            destinations=self.destinations,
            bundle=self.bundle,
            options=self.options,
            starts_on_inputs=self.start == "inputs",
            no_result=self.no_result,
        )


class SeriesSettings(Section):
    """What the series are that match all of the patterns. PATTERNS names the keys that hold one."""

    PATTERNS: ClassVar = ("station_name", "series_description", "protocol_name")

    station_name: str = ""
    series_description: str = ""
    protocol_name: str = ""
    kind: SeriesKind
    fat_suppressed: bool | None = None
    contrast: bool | None = None

    @property
    def rule(self) -> SiteRule:
        return SiteRule(**dict(self))


class Settings(BaseSettings):
    """Everything the node can be told. `config/node.toml` is the reference."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    node: NodeSettings = NodeSettings()
    receive: ReceiveSettings = ReceiveSettings()
    completion: CompletionSettings = CompletionSettings()
    work: WorkSettings = WorkSettings()
    dispatch: DispatchSettings = DispatchSettings()
    peers: tuple[PeerSettings, ...] = ()
    destinations: tuple[AnyDestination, ...] = ()
    applications: tuple[ApplicationSettings, ...] = ()
    series: tuple[SeriesSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *args: Any, **kwargs: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `inspect` merges the environment in, so that its mistakes are told with the others

    @property
    def folders(self) -> NodeFolders:
        return NodeFolders(self.node.data_dir)

    @property
    def stores(self) -> StoresConfig:
        silent = frozenset(a.label for a in self.applications if a.no_result == "never")
        return StoresConfig(self.folders, self.database_url, silent)

    @property
    def database_url(self) -> str:
        if self.node.database_url is not None:
            return self.node.database_url.get_secret_value()
        return default_url(self.node.data_dir)


def find_config() -> Path | None:
    """The file that is used where no `--config` names one: `DICOM_NODE_CONFIG`, or the first of SEARCHED there is."""
    if named := os.environ.get("DICOM_NODE_CONFIG"):
        return Path(named)
    return next((path for path in SEARCHED if path.is_file()), None)


@dataclass(frozen=True)
class Inspection:
    """What a configuration says, as far as it can be read.

    `settings` is None where there are `mistakes`. `destinations` and `applications` are those entries that are right by
    themselves and `devices` and `data_dir` what is meant by these keys, so that all can be looked into in spite of
    mistakes elsewhere.
    """

    mistakes: tuple[str, ...]
    settings: Settings | None = None
    destinations: tuple[AnyDestination, ...] = ()
    applications: tuple[ApplicationSettings, ...] = ()
    devices: str | None = None
    data_dir: Path | None = None


def load(path: Path | None) -> Settings:
    """Settings from `path` (None: defaults) and the environment. Raises ConfigurationError with every mistake."""
    found = inspect(path)
    if found.settings is None:
        raise ConfigurationError(list(found.mistakes))
    return found.settings


def inspect(path: Path | None) -> Inspection:
    """Reads `path` (None: defaults) and the environment, and looks for every mistake in what they say."""
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
        mistakes += [_describe(e) for e in error.errors()]
    mistakes += _inconsistencies(raw)
    return Inspection(
        mistakes=tuple(mistakes),
        settings=None if mistakes or settings is None else _anchor(settings, folder),
        destinations=tuple(d.anchored(folder) for d in _right_destinations(raw)),
        applications=tuple(a.anchored(folder) for a in _right_applications(raw)),
        devices=_setting(raw, "work", "devices", WorkSettings()),
        data_dir=(folder / str(_setting(raw, "node", "data_dir", NodeSettings()))).resolve(),
    )


def _environment() -> tuple[dict[str, Any], list[str]]:
    """What the environment says, by section, and what of it cannot be read."""
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


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _setting(raw: Mapping[str, Any], section: str, key: str, default: BaseModel) -> str:
    """One text of a section that may hold mistakes elsewhere."""
    given = raw.get(section)
    value = given.get(key) if isinstance(given, dict) else None
    return value if isinstance(value, str) else str(getattr(default, key))


def _right_destinations(raw: Mapping[str, Any]) -> Iterator[AnyDestination]:
    """The `[[destinations]]` that are right by themselves."""
    for entry in _tables(raw, "destinations"):
        settings = DESTINATION_KINDS.get(destination_kind(entry))
        if settings is None or any(settings.contradictions("", entry)):
            continue
        with suppress(ValidationError):
            yield settings.model_validate(entry)


def _right_applications(raw: Mapping[str, Any]) -> Iterator[ApplicationSettings]:
    """The `[[applications]]` that are right by themselves."""
    known = known_applications()
    for entry in _tables(raw, "applications"):
        with suppress(ValidationError):
            application = ApplicationSettings.model_validate(entry)
            if application.id in known and not _bundle_mistakes("", application.id, application.bundle):
                yield application


def _tables(raw: Mapping[str, Any], section: str) -> list[dict[str, Any]]:
    """The entries of a list of tables; an empty one for whatever is none."""
    listed = raw.get(section, ())
    return [e if isinstance(e, dict) else {} for e in listed] if isinstance(listed, list | tuple) else []


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
    """The same settings with absolute paths."""
    return settings.model_copy(
        update={
            "node": settings.node.anchored(folder),
            "destinations": tuple(d.anchored(folder) for d in settings.destinations),
            "applications": tuple(a.anchored(folder) for a in settings.applications),
        }
    )


def _unknown_environment() -> Iterator[str]:
    """pydantic-settings drops variables of unknown sections silently; a typing error must be heard of."""
    for name in os.environ:
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            section = name[len(ENVIRONMENT_PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                yield f"{name} (environment): there is no section {section!r}{_nearest(section, Settings.model_fields)}"


def _inconsistencies(raw: Mapping[str, Any]) -> list[str]:
    """Names that are used twice, or that nothing has. Looks at `raw`, so that mistakes elsewhere hide none of these."""
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
                f"allowed: {', '.join(known)}{_nearest(name, known)}"
            )
        elif isinstance(name, str):
            mistakes += _bundle_mistakes(f"applications[{i}].bundle", name, application.get("bundle"))
        wanted = application.get("destinations")
        mistakes += [
            f"applications[{i}].destinations = {d!r}: no [[destinations]] has this name; "
            f"allowed: {', '.join(allowed) or 'none is defined'}{_nearest(d, allowed)}"
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
            f"allowed: {', '.join(allowed) or 'none is defined'}{_nearest(source, allowed)}"
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


def _describe(error: Mapping[str, Any]) -> str:
    """One validation error as a line: key, value, what is allowed, nearest name."""
    location = _as_written(tuple(error["loc"]))
    key = _dotted(location)
    if error["type"] == "extra_forbidden":
        names = _names_beside(tuple(error["loc"]))
        return f"{key}: there is no such key; allowed: {', '.join(names)}{_nearest(str(location[-1]), names)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    if error["type"] == "union_tag_invalid":
        kinds = list(DESTINATION_KINDS)
        given = str(error["ctx"]["tag"])
        return f"{key}.kind = {given!r}: there is no such kind; allowed: {', '.join(kinds)}{_nearest(given, kinds)}"
    if error["type"] == "model_type":
        return f"{key}: must be a section, [{key}], with keys of its own"
    if error["type"] == "tuple_type" and len(location) == 1:
        return f"{key}: must be a list of tables, each under [[{key}]] in double brackets"
    message = str(error["msg"]).removeprefix("Value error, ")
    suggestion = ""
    if error["type"] == "literal_error":
        suggestion = _nearest(str(error["input"]), str(error["ctx"]["expected"]).replace("'", "").split(" or "))
    if error["type"] == "enum":
        suggestion = _nearest(str(error["input"]), re.findall(r"'([^']+)'", str(error["ctx"]["expected"])))
    if error.get("input") is None or "url" in key:  # never echo a value that may hold a password
        return f"{key}: {message}"
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}{suggestion}"


def _as_written(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Without the kind that pydantic puts behind the number of a destination."""
    if location[:1] == ("destinations",) and len(location) > 2:
        return (*location[:2], *location[3:])
    return location


def _dotted(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _names_beside(location: tuple[str | int, ...]) -> list[str]:
    """The valid names at the place where an unknown one stands."""
    if location[0] == "destinations":
        return list(DESTINATION_KINDS[str(location[2])].model_fields)
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(a for a in (*get_args(annotation), annotation) if isinstance(a, type) and issubclass(a, BaseModel))
    return list(model.model_fields)


def _nearest(name: str, names: Any) -> str:
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
