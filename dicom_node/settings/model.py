"""The model of the configuration, and the plain values that the stages get from it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_node.catalogue import ApplicationEntry
from dicom_node.complete.rule import CompletionRule
from dicom_node.deliver.destinations.registry import AnyDestination
from dicom_node.read.folders import NodeFolders
from dicom_node.read.stores import StoresConfig
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.configuration import AETitle, Port, Seconds, Section
from inference.series.kinds import Kind as SeriesKind
from inference.series.site_table import SiteRule
from storage.records.problems import ProblemLimits
from storage.tables.database.connection import default_url

ENVIRONMENT_PREFIX = "DICOM_NODE__"
UNFINISHED_AFTER = 2  # maximum ages of a study
UNCONFIRMED_AFTER = 6  # patiences with a destination
RELEASED_SHARE = 1 / 3  # of the quiet period, where `released_seconds` is not configured


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

    @property
    def rule(self) -> CompletionRule:
        released = min(self.released_seconds or self.quiet_seconds * RELEASED_SHARE, self.quiet_seconds)
        return CompletionRule(
            quiet=self.quiet_seconds,
            released=released,
            settled=min(self.settled_seconds, released),
            maximum_age=self.maximum_age_seconds,
            source=self.source,
        )


class WorkSettings(Section):
    devices: str = "auto"
    maximum_attempts: int = Field(3, ge=1, le=1000)
    job_timeout_seconds: Seconds = 1800
    heartbeat_seconds: float = Field(5, gt=0, le=3600, allow_inf_nan=False)


class DispatchSettings(Section):
    maximum_attempts: int = Field(12, ge=1, le=1000)
    give_up_after_days: float = Field(14, gt=0, le=31, allow_inf_nan=False)
    first_retry_seconds: Seconds = 5
    longest_retry_seconds: Seconds = 900
    timeout_seconds: Seconds = 30
    commitment_timeout_seconds: Seconds = 600

    @property
    def backoff(self) -> Backoff:
        """The pauses between attempts to send something to others."""
        return Backoff(self.first_retry_seconds, self.longest_retry_seconds, self.maximum_attempts)


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
        """The name by which jobs refer to the application: `name`, or `id` if there is no name."""
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
    """The site's statement on the series that match all patterns. PATTERNS names the keys that hold a pattern."""

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
    """The whole configuration of the node. `config/node.toml` is the reference."""

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
        return (
            init_settings,
        )  # `inspect_config` merges the environment in, so that its mistakes are told with the others

    @property
    def application_entries(self) -> tuple[ApplicationEntry, ...]:
        return tuple(application.entry for application in self.applications)

    @property
    def site_table(self) -> tuple[SiteRule, ...]:
        return tuple(entry.rule for entry in self.series)

    @property
    def folders(self) -> NodeFolders:
        return NodeFolders(self.node.data_dir)

    @property
    def stores(self) -> StoresConfig:
        silent = frozenset(a.label for a in self.applications if a.no_result == "never")
        return StoresConfig(self.folders, self.database_url, silent)

    def problem_limits(self, now: datetime) -> ProblemLimits:
        """Return from when rows are problems by their state: well after the node itself should have acted."""
        return ProblemLimits(
            unfinished_before=now - timedelta(seconds=UNFINISHED_AFTER * self.completion.maximum_age_seconds),
            unconfirmed_before=now - timedelta(seconds=UNCONFIRMED_AFTER * self.dispatch.commitment_timeout_seconds),
            confirming=frozenset(d.name for d in self.destinations if d.confirm == "auto"),
        )

    @property
    def database_url(self) -> str:
        if self.node.database_url is not None:
            return self.node.database_url.get_secret_value()
        return default_url(self.node.data_dir)
