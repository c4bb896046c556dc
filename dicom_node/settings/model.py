"""The model of the configuration, and the plain values that the stages get from it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_node.catalogue import ApplicationEntry
from dicom_node.complete.rule import CompletionRule
from dicom_node.deliver.destinations.registry import AnyDestination
from dicom_node.read.folders import NodeFolders
from dicom_node.read.stores import StoresConfig
from dicom_node.runtime.backoff import Backoff
from dicom_node.runtime.configuration import AETitle, Port, Seconds, Section
from inference.contract.study_rule import CodeKey, StudyRule
from inference.series.kinds import Kind as SeriesKind
from inference.series.site_table import SiteRule
from storage.records.problems import ProblemLimits
from storage.tables.database.connection import default_url

ENVIRONMENT_PREFIX = "DICOM_NODE__"
UNFINISHED_AFTER = 2  # maximum ages of a study
UNCONFIRMED_AFTER = 6  # patiences with a destination
LONGEST_BUILT_IN_WAIT_SECONDS = 300.0  # while a dispatcher asks or reports
RELEASED_SHARE = 1 / 3  # of the quiet period, where `released_seconds` is not configured


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError('is not the name of a time zone that this system knows, as in "Europe/Berlin"') from None
    return value


class NodeSettings(Section):
    ae_title: AETitle = "DICOM_NODE"
    data_dir: Path = Path("data")
    database_url: SecretStr | None = None
    time_zone: Annotated[str, AfterValidator(_time_zone)] | None = None

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone of scanners whose images name none."""
        return None if self.time_zone is None else ZoneInfo(self.time_zone)


class ReceiveSettings(Section):
    host: str = "0.0.0.0"  # noqa: S104 - scanners are on other machines
    port: Port = 11112
    processes: int = Field(1, ge=1, le=64)
    maximum_associations: int = Field(50, ge=1, le=1000)
    network_timeout_seconds: Seconds = 60
    minimum_free_megabytes: float = Field(1024, ge=0, allow_inf_nan=False)


class StorageSettings(Section):
    scrub_megabytes_per_second: float = Field(4, ge=0, le=10_000, allow_inf_nan=False)


class CompletionSettings(Section):
    quiet_seconds: Seconds = 30
    released_seconds: Seconds | None = None
    settled_seconds: Seconds = 2
    maximum_age_seconds: Seconds = 3600
    source: str | None = None
    report_quiet_seconds: Seconds = 900

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


def _several(value: Any) -> Any:
    """Return a list as it is; one value stands for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the lower age comes first, as in [18, 120]")
    return value


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_several)]
Years = Annotated[float, Field(ge=0, le=200, allow_inf_nan=False)]


class CodeSettings(Section):
    value: Text
    scheme: Text


class WhenSettings(Section):
    """The studies that an application is for. At least one key is given."""

    modality: Texts = ()
    body_part: Texts = ()
    procedure_code: Annotated[tuple[CodeSettings, ...], BeforeValidator(_several)] = ()
    procedure_description: Texts = ()
    study_description: Texts = ()
    requested_procedure: Texts = ()
    station_name: Texts = ()
    sending_ae_title: Texts = ()
    age: Annotated[tuple[Years, Years], AfterValidator(_in_order)] | None = None

    @model_validator(mode="after")
    def _names_studies(self) -> Self:
        if not any(value for _, value in self):
            raise ValueError(f"names no study; give at least one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def rule(self) -> StudyRule:
        codes = tuple(CodeKey(code.value.strip(), code.scheme.strip()) for code in self.procedure_code)
        return StudyRule(**{**dict(self), "procedure_code": codes})


class ApplicationSettings(Section):
    id: str
    name: str = ""
    bundle: Path | None = None
    when: WhenSettings | None = None
    start: Literal["study", "inputs"] = "study"
    no_result: Literal["expected", "always", "failures", "never"] = "expected"
    series_label: str = Field("", max_length=12)
    series_number: int | None = Field(None, ge=1, le=2**31 - 1 - 10000)
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
            when=None if self.when is None else self.when.rule,
            series_label=self.series_label,
            series_number=self.series_number,
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
    storage: StorageSettings = StorageSettings()
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
        return StoresConfig(self.folders, self.database_url)

    def problem_limits(self, now: datetime) -> ProblemLimits:
        """Return from when rows are problems by their state: well after the node itself should have acted."""
        return ProblemLimits(
            unfinished_before=now - timedelta(seconds=UNFINISHED_AFTER * self.completion.maximum_age_seconds),
            unconfirmed_before=now - timedelta(seconds=UNCONFIRMED_AFTER * self.dispatch.commitment_timeout_seconds),
            confirming=frozenset(d.name for d in self.destinations if d.confirm == "auto"),
        )

    @property
    def longest_wait_seconds(self) -> float:
        """The longest time for which a row of the database is put off."""
        return max(
            self.dispatch.longest_retry_seconds,
            self.dispatch.commitment_timeout_seconds,
            LONGEST_BUILT_IN_WAIT_SECONDS,
        )

    @property
    def database_url(self) -> str:
        if self.node.database_url is not None:
            return self.node.database_url.get_secret_value()
        return default_url(self.node.data_dir)
