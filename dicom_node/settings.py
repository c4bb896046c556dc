"""Typed settings from one TOML file, overridden by the environment (`DICOM_NODE__RECEIVE__PORT=11113`).

Loading reports every mistake at once: the key, the value, what is allowed, and the nearest valid name.
Relative paths in the file are relative to the file's own folder.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_node.errors import ConfigurationError
from inference.manifest import known_applications
from storage.database import default_url

ENVIRONMENT_PREFIX = "DICOM_NODE__"
SEARCHED = (Path("node.toml"), Path("config/node.toml"), Path("/etc/dicom-node/node.toml"))


def _ae_title(value: str) -> str:
    """PS3.5 table 6.2-1: 1 to 16 characters of the default repertoire, no backslash, not only spaces."""
    title = value.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 ASCII characters and no backslash")
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(_Section):
    ae_title: AETitle = "DICOM_NODE"
    data_dir: Path = Path("data")
    database_url: SecretStr | None = None


class ReceiveSettings(_Section):
    host: str = "0.0.0.0"  # noqa: S104 - scanners are on other machines
    port: Port = 11112
    processes: int = Field(1, ge=1, le=64)
    maximum_associations: int = Field(50, ge=1, le=1000)
    network_timeout_seconds: float = Field(60, gt=0)
    minimum_free_megabytes: float = Field(1024, ge=0)


class CompletionSettings(_Section):
    quiet_seconds: float = Field(30, gt=0)
    released_seconds: float | None = Field(None, gt=0)
    settled_seconds: float = Field(2, gt=0)
    maximum_age_seconds: float = Field(3600, gt=0)
    source: str | None = None


class WorkSettings(_Section):
    devices: str = "auto"
    maximum_attempts: int = Field(3, ge=1)
    job_timeout_seconds: float = Field(1800, gt=0)
    heartbeat_seconds: float = Field(5, gt=0)


class DispatchSettings(_Section):
    maximum_attempts: int = Field(12, ge=1)
    first_retry_seconds: float = Field(5, gt=0)
    longest_retry_seconds: float = Field(900, gt=0)
    timeout_seconds: float = Field(30, gt=0)


class PeerSettings(_Section):
    ae_title: AETitle
    host: str | None = None
    services: tuple[Literal["echo", "store", "commitment", "mpps"], ...] | None = None
    maximum_associations: int | None = Field(None, ge=1)
    maximum_pdu_bytes: int | None = Field(None, ge=4096, le=4 * 2**20)
    port: Port | None = None
    commitment: Literal["same", "new"] = "same"
    priority: int = Field(0, ge=0, le=9)


class DestinationSettings(_Section):
    name: str = Field(min_length=1)
    kind: Literal["dimse"] = "dimse"
    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port


class ApplicationSettings(_Section):
    id: str
    name: str = ""
    bundle: Path | None = None
    start: Literal["study", "inputs"] = "study"
    destinations: tuple[str, ...] = Field(min_length=1)

    @property
    def label(self) -> str:
        """The name jobs carry: `name`, or `id` where none is given."""
        return self.name or self.id


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
    destinations: tuple[DestinationSettings, ...] = ()
    applications: tuple[ApplicationSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *args: Any, **kwargs: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return kwargs["env_settings"], init_settings  # the environment wins over the file

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


def load(path: Path | None) -> Settings:
    """Settings from `path` (None: defaults) and the environment. Raises ConfigurationError with every mistake."""
    raw: dict[str, Any] = {}
    folder = Path.cwd()
    if path is not None:
        raw = _read(path)
        folder = path.resolve().parent
    mistakes = list(_unknown_environment())
    try:
        settings = Settings(**raw)
    except ValidationError as error:
        raise ConfigurationError(mistakes + [_describe(e, raw) for e in error.errors()]) from None
    mistakes += _inconsistencies(settings)
    if mistakes:
        raise ConfigurationError(mistakes)
    return _anchor(settings, folder)


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
    """The same settings with absolute paths. `model_copy` keeps what was validated."""
    node = settings.node.model_copy(update={"data_dir": (folder / settings.node.data_dir).resolve()})
    applications = tuple(
        a if a.bundle is None else a.model_copy(update={"bundle": (folder / a.bundle).resolve()})
        for a in settings.applications
    )
    return settings.model_copy(update={"node": node, "applications": applications})


def _unknown_environment() -> Iterator[str]:
    """pydantic-settings drops variables of unknown sections silently; a typing error must be heard of."""
    for name in os.environ:
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            section = name[len(ENVIRONMENT_PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                yield f"{name} (environment): there is no section {section!r}{_nearest(section, Settings.model_fields)}"


def _inconsistencies(settings: Settings) -> list[str]:
    mistakes = []
    destinations = [d.name for d in settings.destinations]
    labels = [a.label for a in settings.applications]
    for what, names in (("destinations", destinations), ("applications", labels)):
        mistakes += [
            f"{what}: the name {n!r} is used {names.count(n)} times; names must differ"
            for n in dict.fromkeys(names)
            if names.count(n) > 1
        ]
    mistakes += [
        f"peers[{i}].commitment = 'new': needs the port on which {peer.ae_title} listens for the reports"
        for i, peer in enumerate(settings.peers)
        if peer.commitment == "new" and peer.port is None
    ]
    source = settings.completion.source
    if source is not None and source not in destinations:
        mistakes.append(
            f"completion.source = {source!r}: no [[destinations]] has this name; "
            f"allowed: {', '.join(destinations) or 'none is defined'}{_nearest(source, destinations)}"
        )
    known = known_applications()
    for i, application in enumerate(settings.applications):
        if application.id not in known:
            mistakes.append(
                f"applications[{i}].id = {application.id!r}: there is no such application; "
                f"allowed: {', '.join(known)}{_nearest(application.id, known)}"
            )
        mistakes += [
            f"applications[{i}].destinations = {name!r}: no [[destinations]] has this name; "
            f"allowed: {', '.join(destinations) or 'none is defined'}{_nearest(name, destinations)}"
            for name in application.destinations
            if name not in destinations
        ]
        if application.id == "segmentation" and application.bundle is None:
            mistakes.append(f"applications[{i}].bundle: the application 'segmentation' needs the folder of a model")
    return mistakes


def _describe(error: Mapping[str, Any], raw: Mapping[str, Any]) -> str:
    """One validation error as a line: key, value, what is allowed, nearest name."""
    location: tuple[str | int, ...] = tuple(error["loc"])
    key = _dotted(location)
    if error["type"] == "extra_forbidden":
        names = _names_beside(location)
        return f"{key}: there is no such key; allowed: {', '.join(names)}{_nearest(str(location[-1]), names)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = str(error["msg"]).removeprefix("Value error, ")
    suggestion = ""
    if error["type"] == "literal_error":
        suggestion = _nearest(str(error["input"]), str(error["ctx"]["expected"]).replace("'", "").split(" or "))
    if error.get("input") is None or "url" in key:  # never echo a value that may hold a password
        return f"{key}: {message}"
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}{suggestion}"


def _dotted(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _names_beside(location: tuple[str | int, ...]) -> list[str]:
    """The valid names at the place where an unknown one stands."""
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
