"""The catalogue of configured applications with their manifests."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dicom_node.runtime.logs import fields
from inference.contract.manifest import Manifest, load_manifest
from inference.contract.study_rule import StudyRule
from storage.errors import ModelRefused

log = logging.getLogger(__name__)

NoResultPolicy = Literal["expected", "always", "failures", "never"]
"""The studies for which the destinations of an application are told that there is no result."""


@dataclass(frozen=True)
class ApplicationEntry:
    """An `[[applications]]` entry of the configuration. `name` is the name by which jobs refer to it.

    `series_label` and `series_number` begin the descriptions and the numbers of its result series; empty or None if the
    node is to choose them.
    """

    id: str
    name: str
    destinations: tuple[str, ...]
    bundle: Path | None = None
    options: Mapping[str, bool] = field(default_factory=dict)
    starts_on_inputs: bool = False
    no_result: NoResultPolicy = "expected"
    when: StudyRule | None = None
    series_label: str = ""
    series_number: int | None = None


@dataclass(frozen=True)
class ConfiguredApplication:
    """An entry with its manifest. `manifest` is None if the descriptor cannot be used, and `problem` gives the reason.

    An application that `starts_on_inputs` starts as soon as the series of its inputs are whole, even if other series of
    the study still arrive. `when` tells which studies it is for; None if the site does not say it.
    """

    name: str
    destinations: tuple[str, ...]
    manifest: Manifest | None
    problem: str = ""
    starts_on_inputs: bool = False
    no_result: NoResultPolicy = "expected"
    when: StudyRule | None = None
    series_label: str = ""
    series_number: int | None = None

    @property
    def title(self) -> str:
        return self.name if self.manifest is None else self.manifest.title

    @property
    def meant_only_where_bound(self) -> bool:
        """True if nothing but its inputs says which studies it is for, so that a study without them is not reported."""
        required = () if self.manifest is None else self.manifest.inputs
        named = any(rule.body_parts for rule in required if rule.required)
        return self.no_result == "expected" and self.when is None and not named


def configured_applications(entries: Sequence[ApplicationEntry]) -> tuple[ConfiguredApplication, ...]:
    """Load the manifest of every entry. An application that cannot be used does not stop the others."""
    return tuple(_configured(entry) for entry in entries)


def load_applications(entries: Sequence[ApplicationEntry]) -> tuple[ConfiguredApplication, ...]:
    """Load the manifest of every entry, and log the applications that cannot be used."""
    found = configured_applications(entries)
    for application in found:
        if application.manifest is None:
            log.error(
                "Application %s cannot be used and gets no study: %s. Once it is repaired, start the node again and "
                "route the studies again with `dicom-node retry --study UID`",
                application.name,
                application.problem,
                extra=fields("application_refused", application=application.name),
            )
    return found


def _configured(entry: ApplicationEntry) -> ConfiguredApplication:
    try:
        manifest = load_manifest(entry.id, entry.name, entry.bundle, entry.options)
    except ModelRefused as error:
        return ConfiguredApplication(
            entry.name, entry.destinations, None, str(error), no_result=entry.no_result, when=entry.when
        )
    return ConfiguredApplication(
        entry.name,
        entry.destinations,
        manifest,
        starts_on_inputs=entry.starts_on_inputs,
        no_result=entry.no_result,
        when=entry.when,
        series_label=entry.series_label,
        series_number=entry.series_number,
    )
