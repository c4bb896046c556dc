"""The application `soft_tissue_mass`: the largest mass of a limb on its T1w series, outlined and measured."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydicom.uid import generate_uid

from inference.applications.soft_tissue_mass import preprocessing
from inference.applications.soft_tissue_mass.classifier import Classifier, classify, read_classifier
from inference.applications.soft_tissue_mass.outline import OVERLAP, Estimate, estimate_mass
from inference.contract.application import Engine, Progress
from inference.contract.concepts import ABNORMAL, CERTAINTY, FASCIA_DEPTH, MASS, MM, UNCERTAIN
from inference.contract.findings import NOT_ATTEMPTED, Algorithm, Evaluation, Findings, Measurement, Segment
from inference.contract.manifest import Manifest, file_sha256, weights_path, weights_sha256
from inference.contract.series_input import SeriesInput, read_input
from inference.engine.networks import ensemble
from inference.gate.assessment import check_volume
from inference.gate.reference import reference_of
from inference.quantities.panel import Panel, measure_panel, read_optional_volumes
from inference.quantities.size import is_cut_off, size_measurements
from inference.volumes.geometry import Mask
from inference.volumes.volume import Volume

COLOR = (221, 130, 101)

TRAINING_DATA = (
    "T1w MR of {patients} patients with soft-tissue sarcoma (TCIA Soft-tissue-Sarcoma, CC BY 3.0) and limb phantoms"
)
TRAINED_ON = (
    "a network trained on T1w images of {patients} patients with sarcoma, cropped around the tumour, and on simulated "
    "limbs. It is not validated on whole examinations, benign masses or other scanners"
)
OUTLINED = "The mass was outlined by " + TRAINED_ON + ": check the outline."
DISAGREE = (
    "The outline is uncertain: the networks that were trained apart for this analysis agree on it less than on most "
    "patients they know (Dice {agreement:.2f}, limit {limit:.2f}). Do not rely on its volume and diameters."
)
NOT_FOUND = (
    f"No mass of at least {preprocessing.SMALLEST_MASS:g} mL was found; this does not exclude one. "
    "The images were searched by " + TRAINED_ON + ", and may overlook a mass: look at the images."
)
CUT_OFF = "The outline is uncertain: the mass reaches the edge of the images, and its sizes are the least they can be."
NO_DEPTH = "The depth of the mass below the fascia is not measured: nothing here outlines the fascia."


@dataclass(frozen=True)
class ModelOptions:
    """The table `[model]` of application.toml. `uncertain_below` is a limit for `Estimate.agreement`."""

    weights: str
    members: int
    threshold: float
    uncertain_below: float


def create(manifest: Manifest) -> "SoftTissueMass":
    return SoftTissueMass(manifest)


class SoftTissueMass:
    research = True

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._sha256 = weights_sha256(manifest)
        self._model = ModelOptions(**manifest.options["model"])
        self._patients = int(manifest.options["training"]["patients"])
        self._reference = reference_of(manifest, "t1w")
        self._classifier = _classifier(manifest)
        self.algorithm = Algorithm(
            name="Soft tissue mass",
            version=manifest.version,
            manufacturer="dicom-node",
            weights_sha256=self._sha256 if self._classifier is None else _with_classifier(manifest),
            training_data=TRAINING_DATA.format(patients=self._patients),
        )

    def run(self, inputs: Mapping[str, SeriesInput], engine: Engine, progress: Progress) -> Findings:
        """Outline and measure the largest mass on the grid of the series "t1w"; there may be none."""
        started_at = datetime.now(UTC)
        progress("reading", 0.0)
        (volume,) = read_input(inputs["t1w"], self.manifest.inputs)
        check_volume(volume, self._reference)
        optional, unread = read_optional_volumes(inputs, self.manifest.inputs)
        progress("segmenting", 0.2)
        estimated = self._estimate(volume, engine)
        mask = estimated.mass(self._model.threshold)
        doubt = tuple(self._doubt(estimated, mask)) if mask.any() else ()
        progress("measuring", 0.8)
        quantities = measure_panel(optional, volume)
        found, told = self._measured(mask, volume, quantities, uncertain=bool(doubt)) if mask.any() else ((), ())
        said = (OUTLINED if found else NOT_FOUND).format(patients=self._patients)
        return Findings(
            source=volume,
            inputs=(volume, *quantities.inputs),
            segments=found,
            algorithm=self.algorithm,
            title=self.manifest.title,
            started_at=started_at,
            maps=quantities.maps,
            notes=(
                said,
                *doubt,
                *told,
                *quantities.assumed,
                *unread,
            ),
            research=self.research,
        )

    def _estimate(self, volume: Volume, engine: Engine) -> Estimate:
        build = partial(ensemble, self._model.members)
        networks = engine.load_state(build, weights_path(self.manifest), self._sha256)
        return estimate_mass(
            volume.array,
            volume.geometry,
            lambda image, window: engine.sliding_window(networks, image, window, OVERLAP),
        )

    def _doubt(self, estimated: Estimate, mask: Mask) -> Iterator[str]:
        """Yield sentences for the report on the reasons why the outline of a mass is uncertain."""
        agreement = estimated.agreement(self._model.threshold)
        if agreement < self._model.uncertain_below:
            yield DISAGREE.format(agreement=agreement, limit=self._model.uncertain_below)
        if is_cut_off(mask):
            yield CUT_OFF

    def _measured(
        self, mask: Mask, volume: Volume, quantities: Panel, uncertain: bool
    ) -> tuple[tuple[Segment], tuple[str, ...]]:
        """Return the mass with its measurements, and notes for the reader of the report."""
        measurements = (
            *size_measurements(mask, volume.geometry),
            Measurement(FASCIA_DEPTH, None, MM, missing=NOT_ATTEMPTED),
            *quantities.measurements(mask),
        )
        evaluations = (Evaluation(CERTAINTY, UNCERTAIN),) if uncertain else ()
        notes = (NO_DEPTH, *quantities.notes(mask))
        if self._classifier is not None:
            probabilities, classes, said = classify(self._classifier, quantities, mask)
            measurements, evaluations, notes = (*measurements, *probabilities), (*evaluations, *classes), (said, *notes)
        segment = Segment(
            label="Mass",
            mask=mask,
            category=ABNORMAL,
            type=MASS,
            color=COLOR,
            tracking_id="Mass",
            tracking_uid=str(generate_uid(entropy_srcs=[volume.series_instance_uid, self.manifest.name, "Mass"])),
            measurements=measurements,
            evaluations=evaluations,
        )
        return (segment,), notes


def _classifier(manifest: Manifest) -> Classifier | None:
    """Read the classifier if the site has switched it on, else return None."""
    return read_classifier(_classifier_path(manifest)) if manifest.switches["classification"] else None


def _classifier_path(manifest: Manifest) -> Path:
    return manifest.folder / str(manifest.options["classification"]["weights"])


def _with_classifier(manifest: Manifest) -> str:
    """Return a hash over both models, because another classifier makes another device."""
    both = weights_sha256(manifest) + file_sha256(_classifier_path(manifest))
    return hashlib.sha256(both.encode()).hexdigest()
