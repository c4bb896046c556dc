"""The configured applications with their manifests. One that cannot be used does not stop the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dicom_node.settings.model import ApplicationSettings
from inference.contract.manifest import Manifest, load_manifest
from storage.errors import ModelRefused


@dataclass(frozen=True)
class ConfiguredApplication:
    """One `[[applications]]` entry. `manifest` is None where its descriptor cannot be used, and `problem` says why."""

    name: str
    destinations: tuple[str, ...]
    manifest: Manifest | None
    problem: str = ""
    starts_on_inputs: bool = False  # as soon as its own inputs are whole, while the rest of the study still arrives
    no_result: Literal["always", "failures", "never"] = "always"  # when a report says that there is no result


def configured_applications(applications: Sequence[ApplicationSettings]) -> tuple[ConfiguredApplication, ...]:
    return tuple(_configured(application) for application in applications)


def _configured(application: ApplicationSettings) -> ConfiguredApplication:
    try:
        manifest = load_manifest(application.id, application.label, application.bundle, application.options)
    except ModelRefused as error:
        return ConfiguredApplication(
            application.label, application.destinations, None, str(error), no_result=application.no_result
        )
    return ConfiguredApplication(
        application.label,
        application.destinations,
        manifest,
        starts_on_inputs=application.start == "inputs",
        no_result=application.no_result,
    )
