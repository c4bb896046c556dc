"""`soft_tissue_mass`: segments the largest mass of a limb on its T1w series, and measures it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from pydicom.uid import generate_uid

from inference.application import Progress, SeriesInput
from inference.applications.soft_tissue_mass import preprocessing
from inference.applications.soft_tissue_mass.outline import OVERLAP, Estimate, estimate
from inference.engine import Engine
from inference.findings import Algorithm, Code, Evaluation, Findings, Mask, Measurement, Segment
from inference.manifest import Manifest, weights_path, weights_sha256
from inference.measurements import diameters, volume_ml
from inference.networks import ensemble
from inference.volume import Geometry, Volume, read_volume

MASS = Code("4147007", "SCT", "Mass")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
VOLUME = Code("118565006", "SCT", "Volume")
LONG_AXIS = Code("103339001", "SCT", "Long axis")
SHORT_AXIS = Code("103340004", "SCT", "Short axis")
MAXIMUM_3D = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
UNCERTAIN = Code("64957009", "SCT", "Uncertain")
CM3 = Code("cm3", "UCUM", "cubic centimeter")
MM = Code("mm", "UCUM", "mm")
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
    f"No mass of at least {preprocessing.SMALLEST:g} mL was found; this does not exclude one. "
    "The images were searched by " + TRAINED_ON + ", and may overlook a mass: look at the images."
)


@dataclass(frozen=True)
class Model:
    """The table `[model]` of application.toml. `uncertain_below` is of `Estimate.agreement`."""

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
        self._model = Model(**manifest.options["model"])
        self._patients = int(manifest.options["training"]["patients"])
        self.algorithm = Algorithm(
            name="Soft tissue mass",
            version=manifest.version,
            manufacturer="dicom-node",
            weights_sha256=self._sha256,
            training_data=TRAINING_DATA.format(patients=self._patients),
        )

    def run(self, inputs: Mapping[str, SeriesInput], engine: Engine, progress: Progress) -> Findings:
        """The largest mass on the grid of the series "t1w"; no segment where there is none."""
        started_at = datetime.now(UTC)
        progress("reading", 0.0)
        volume = read_volume(inputs["t1w"].paths)
        progress("segmenting", 0.2)
        estimated = self._estimate(volume, engine)
        mask = estimated.mass(self._model.threshold)
        doubt = self._doubt(estimated) if mask.any() else ()
        progress("measuring", 0.9)
        found = (self._segment(mask, volume, uncertain=bool(doubt)),) if mask.any() else ()
        return Findings(
            source=volume,
            inputs=(volume,),
            segments=found,
            algorithm=self.algorithm,
            title=self.manifest.title,
            started_at=started_at,
            notes=((OUTLINED if found else NOT_FOUND).format(patients=self._patients), *doubt),
            research=self.research,
        )

    def _estimate(self, volume: Volume, engine: Engine) -> Estimate:
        build = partial(ensemble, self._model.members)
        networks = engine.load_state(build, weights_path(self.manifest), self._sha256)
        return estimate(
            volume.array,
            volume.geometry,
            lambda image, window: engine.sliding_window(networks, image, window, OVERLAP),
        )

    def _doubt(self, estimated: Estimate) -> tuple[str, ...]:
        """A sentence for the report where the networks disagree on the mass."""
        agreement = estimated.agreement(self._model.threshold)
        if agreement >= self._model.uncertain_below:
            return ()
        return (DISAGREE.format(agreement=agreement, limit=self._model.uncertain_below),)

    def _segment(self, mask: Mask, volume: Volume, uncertain: bool) -> Segment:
        return Segment(
            label="Mass",
            mask=mask,
            category=ABNORMAL,
            type=MASS,
            color=COLOR,
            tracking_id="Mass",
            tracking_uid=str(generate_uid(entropy_srcs=[volume.series_instance_uid, self.manifest.name, "Mass"])),
            measurements=measure(mask, volume.geometry),
            evaluations=(Evaluation(CERTAINTY, UNCERTAIN),) if uncertain else (),
        )


def measure(mask: Mask, geometry: Geometry) -> tuple[Measurement, ...]:
    size = diameters(mask, geometry)
    return (
        Measurement(VOLUME, volume_ml(mask, geometry), CM3),
        Measurement(LONG_AXIS, size.long_axis, MM),
        Measurement(SHORT_AXIS, size.short_axis, MM),
        Measurement(MAXIMUM_3D, size.maximum_3d, MM),
    )
