"""The applications of a worker, kept warm once they are loaded."""

from collections.abc import Callable, Iterable

from dicom_node.catalogue import ConfiguredApplication
from inference.contract.application import Application, load_application
from inference.contract.manifest import Manifest
from storage.errors import ModelRefused


class WarmApplications:
    """The configured applications by name. Each is loaded when a job first needs it, and kept for the next one."""

    def __init__(
        self, configured: Iterable[ConfiguredApplication], load: Callable[[Manifest], Application] = load_application
    ) -> None:
        self._configured = {application.name: application for application in configured}
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

    def load(self, name: str) -> Application:
        """Return the application, ready to run. Raises ModelRefused, with the reason, if it cannot be used."""
        configured = self.configured(name)
        if configured.manifest is None:
            raise ModelRefused(configured.problem)
        if name not in self._warm:
            self._warm[name] = self._load(configured.manifest)
        return self._warm[name]
