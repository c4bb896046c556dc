"""The applications of a worker, kept warm once they are loaded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.objects.base.series_numbers import APPLICATION_STEP, FIRST_SERIES
from dicom_node.objects.base.value_lengths import LABEL_LENGTH, short_names
from inference.contract.application import Application, load_application
from inference.contract.manifest import Manifest
from storage.errors import ModelRefused


@dataclass(frozen=True)
class SeriesNaming:
    """The beginning of the descriptions and of the numbers of an application's series."""

    label: str = ""
    first_series: int = FIRST_SERIES


class WarmApplications:
    """The configured applications by name. Each is loaded when a job first needs it, and kept for the next one."""

    def __init__(
        self, configured: Iterable[ConfiguredApplication], load: Callable[[Manifest], Application] = load_application
    ) -> None:
        self._configured = {application.name: application for application in configured}
        self._naming = _naming(tuple(self._configured.values()))
        self._load = load
        self._warm: dict[str, Application] = {}

    @property
    def destinations(self) -> frozenset[str]:
        """The destinations of all applications."""
        return frozenset(name for application in self._configured.values() for name in application.destinations)

    def knows(self, name: str) -> bool:
        return name in self._configured

    def configured(self, name: str) -> ConfiguredApplication:
        """Return the configured application of this name. Raises ModelRefused if it is not configured any more."""
        configured = self._configured.get(name)
        if configured is None:
            raise ModelRefused(f"application {name!r} is not configured any more; add it again or cancel the job")
        return configured

    def naming(self, name: str) -> SeriesNaming:
        """Return the naming of an application's series; the default one if `name` is no configured application."""
        return self._naming.get(name, SeriesNaming())

    def load(self, name: str) -> Application:
        """Return the application, ready to run. Raises ModelRefused, with the reason, if it cannot be used."""
        configured = self.configured(name)
        if configured.manifest is None:
            raise ModelRefused(configured.problem)
        if name not in self._warm:
            self._warm[name] = self._load(configured.manifest)
        return self._warm[name]


def _naming(configured: Sequence[ConfiguredApplication]) -> dict[str, SeriesNaming]:
    """Return labels that tell the applications apart, and numbers that lie far apart, in the order of configuration."""
    labels = short_names([application.series_label or application.title for application in configured], LABEL_LENGTH)
    return {
        application.name: SeriesNaming(label, application.series_number or FIRST_SERIES + APPLICATION_STEP * position)
        for position, (application, label) in enumerate(zip(configured, labels, strict=True))
    }
