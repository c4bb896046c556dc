"""The application `extremity_sts_sbrt`: a sarcoma of a limb and its surroundings at one or several time points."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pydicom.uid import generate_uid
from torch import Tensor

from inference.applications.extremity_sts_sbrt.course import change_measurements, response_evaluations
from inference.applications.extremity_sts_sbrt.examination import REQUIRED, Examination, SliceInference, examine_limb
from inference.applications.extremity_sts_sbrt.network import LABELS, SliceUNet
from inference.applications.extremity_sts_sbrt.notes import EarlierTimePoint, report_notes
from inference.contract.application import Engine, Progress
from inference.contract.concepts import (
    ABNORMAL,
    ANATOMICAL,
    BONE,
    BONE_DISTANCE,
    BUNDLE,
    BUNDLE_DISTANCE,
    CERTAINTY,
    CM3,
    EDEMA,
    MASS,
    MM,
    NECROSIS,
    NECROTIC,
    NO,
    OVER_5_CM,
    PERCENT,
    UNCERTAIN,
    VOLUME,
    YES,
)
from inference.contract.findings import (
    MEASUREMENT_FAILURE,
    Algorithm,
    Code,
    Evaluation,
    Findings,
    Measurement,
    Segment,
    TimePoint,
)
from inference.contract.inputs import input_key, split_key
from inference.contract.manifest import Manifest, weights_path, weights_sha256
from inference.contract.series_input import SeriesInput, read_input
from inference.gate.assessment import check_volume
from inference.gate.reference import reference_of
from inference.quantities.panel import Volumes, read_optional_volumes
from inference.quantities.size import size_measurements
from storage.errors import InputRefused

OPTIONAL = ("t1w_fs_post", "dwi", "adc", "t1_map", "t2_map")
CRITERION = 50.0  # mm: the trial enrols patients with a larger mass
# The code, the category and the colour of each structure.
SEGMENTS: Mapping[str, tuple[Code, Code, tuple[int, int, int]]] = {
    "mass": (MASS, ABNORMAL, (221, 130, 101)),
    "necrosis": (NECROSIS, ABNORMAL, (150, 98, 83)),
    "oedema": (EDEMA, ABNORMAL, (140, 224, 228)),
    "bundle": (BUNDLE, ANATOMICAL, (244, 214, 49)),
    "bone": (BONE, ANATOMICAL, (241, 214, 145)),
}
BASELINE, FOLLOW_UP = "first study analysed", "follow-up"

TRAINING_DATA = "simulated MR of limbs with a sarcoma (phantoms); no image of a patient"


def create(manifest: Manifest) -> "LimbSarcomaCourse":
    return LimbSarcomaCourse(manifest)


class LimbSarcomaCourse:
    research = True

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._sha256 = weights_sha256(manifest)
        self._reference = reference_of(manifest, "t1w")
        self._threshold = float(manifest.options["model"]["threshold"])
        self.algorithm = Algorithm(
            name="Limb sarcoma course",
            version=manifest.version,
            manufacturer="dicom-node",
            weights_sha256=self._sha256,
            training_data=TRAINING_DATA,
        )

    def run(self, inputs: Mapping[str, SeriesInput], engine: Engine, progress: Progress) -> Findings:
        """Outline the structures on the grid of the series "t1w", and measure changes since earlier time points.

        The same network outlines the earlier time points, each on its own grid.
        """
        started_at = datetime.now(UTC)
        progress("reading", 0.0)
        volumes, unread = self._read(inputs, 0)
        network = engine.load_state(SliceUNet, weights_path(self.manifest), self._sha256)

        def infer(image: Tensor) -> Tensor:
            return engine.whole(network, image)

        points = sorted({split_key(key)[1] for key in inputs} - {0})
        earlier: list[EarlierTimePoint] = []
        for done, point in enumerate(points):
            progress("segmenting an earlier study", 0.1 + 0.8 * done / (len(points) + 1))
            earlier.append(self._earlier(inputs, point, infer))
        progress("segmenting", 0.1 + 0.8 * len(points) / (len(points) + 1))
        now = self._examined(volumes, unread, infer)
        progress("measuring", 0.9)
        return self._findings(inputs, earlier, now, started_at)

    def _earlier(self, inputs: Mapping[str, SeriesInput], point: int, infer: SliceInference) -> EarlierTimePoint:
        dates = [one.acquired for one in inputs.values() if one.time_point == point and one.acquired]
        acquired = min(dates, default=None)
        try:
            volumes, unread = self._read(inputs, point)
            return EarlierTimePoint(point, acquired, self._examined(volumes, unread, infer))
        except InputRefused as error:
            return EarlierTimePoint(point, acquired, None, str(error))

    def _examined(self, volumes: Volumes, unread: Sequence[str], infer: SliceInference) -> Examination:
        found = examine_limb(volumes, infer, self._threshold)
        return replace(found, notes=(*unread, *found.notes))

    def _read(self, inputs: Mapping[str, SeriesInput], point: int) -> tuple[Volumes, tuple[str, ...]]:
        """Return the volumes of a time point, and notes on series that make none.

        Raises InputRefused if a series of REQUIRED is absent or makes no volume, and if the gate refuses the T1w.
        """
        required = {}
        for name in REQUIRED:
            if (key := input_key(name, point)) not in inputs:
                raise InputRefused(f"it has no {name} series")
            required[name] = read_input(inputs[key], self.manifest.inputs)
        check_volume(required["t1w"][0], self._reference)
        volumes, unread = read_optional_volumes(inputs, self.manifest.inputs, OPTIONAL, point)
        return volumes | required, unread

    def _findings(
        self,
        inputs: Mapping[str, SeriesInput],
        earlier: Sequence[EarlierTimePoint],
        now: Examination,
        started_at: datetime,
    ) -> Findings:
        found = "mass" in now.masks
        usable = {one.point: one.comparable for one in earlier if one.comparable}
        compared = [*usable.values(), now] if found else []
        first = inputs[input_key("t1w", min(usable, default=0))].series_instance_uid
        return Findings(
            source=now.source,
            inputs=now.inputs,
            # Bundle and bone matter by their distance to the mass alone.
            segments=tuple(self._segment(name, now, first) for name in SEGMENTS if found and name in now.masks),
            algorithm=self.algorithm,
            title=self.manifest.title,
            started_at=started_at,
            measurements=change_measurements(compared) if found else (),
            evaluations=response_evaluations(compared) if found else (),
            maps=now.panel.maps,
            time_point=TimePoint(FOLLOW_UP if earlier else BASELINE, len(earlier) + 1),
            notes=report_notes(now, earlier),
            research=self.research,
        )

    def _segment(self, name: str, now: Examination, first: str) -> Segment:
        """Describe one structure. Its tracking UID comes from the first study in the comparison."""
        label, (kind, category, color) = LABELS[name], SEGMENTS[name]
        measurements, evaluations = _measured(name, now)
        return Segment(
            label=label,
            mask=now.masks[name],
            category=category,
            type=kind,
            color=color,
            tracking_id=label,
            tracking_uid=str(generate_uid(entropy_srcs=[first, self.manifest.name, label])),
            measurements=measurements,
            evaluations=(Evaluation(CERTAINTY, UNCERTAIN), *evaluations),
        )


def _measured(name: str, now: Examination) -> tuple[tuple[Measurement, ...], tuple[Evaluation, ...]]:
    if name in ("bundle", "bone"):  # Both leave the images at either end, so that their volume means nothing.
        return (), ()
    if name != "mass":
        return (Measurement(VOLUME, now.volume(name), CM3),), ()
    mask, geometry = now.masks["mass"], now.source.geometry
    volume, long_axis, short_axis, maximum_3d = size_measurements(mask, geometry)
    return (
        # The values that the trial asks for come first, because OHIF draws the first five of a finding on the image.
        volume,
        long_axis,
        _distance(BUNDLE_DISTANCE, now.distance("bundle")),
        _distance(BONE_DISTANCE, now.distance("bone")),
        Measurement(NECROTIC, now.necrotic, PERCENT),
        short_axis,
        maximum_3d,
        *now.panel.measurements(mask),
    ), _over_5_cm(now)


def _over_5_cm(now: Examination) -> tuple[Evaluation, ...]:
    """Evaluate the 5 cm criterion; return no evaluation if it cannot be decided.

    It cannot be decided for a mass of at most 5 cm in the images that reaches their edge, because it may go on beyond.
    """
    if now.diameters.maximum_3d > CRITERION:
        return (Evaluation(OVER_5_CM, YES),)
    return () if now.cut_off else (Evaluation(OVER_5_CM, NO),)


def _distance(name: Code, found: float | None) -> Measurement:
    return Measurement(name, found, MM, missing=MEASUREMENT_FAILURE if found is None else None)
