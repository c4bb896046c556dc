"""`extremity_sts_sbrt`: a sarcoma of a limb at one or several time points, its surroundings, and its response."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from pydicom.uid import generate_uid
from torch import Tensor

from inference.application import Progress, SeriesInput
from inference.applications.extremity_sts_sbrt.course import changes, course, response
from inference.applications.extremity_sts_sbrt.examination import REQUIRED, Examination, examine
from inference.applications.extremity_sts_sbrt.network import CONTRASTS, SliceUNet
from inference.applications.extremity_sts_sbrt.preprocessing import SMALLEST
from inference.concepts import (
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
from inference.engine import Engine
from inference.findings import (
    MEASUREMENT_FAILURE,
    Algorithm,
    Code,
    Evaluation,
    Findings,
    Measurement,
    Segment,
    TimePoint,
)
from inference.gate import check, reference_of
from inference.inputs import input_key, split_key
from inference.manifest import Manifest, weights_path, weights_sha256
from inference.panel import Volumes, read_optional
from inference.quantities.missing import Missing
from inference.quantities.size import size
from inference.volume import read_volume
from storage.errors import InputRefused

OPTIONAL = ("t1w_fs_post", "dwi", "adc", "t1_map", "t2_map")
CRITERION = 50.0  # mm: the trial takes larger ones
# Label, code, category and colour of each structure. Planning systems know a gross tumour volume by the name GTV.
SEGMENTS: Mapping[str, tuple[str, Code, Code, tuple[int, int, int]]] = {
    "mass": ("GTV", MASS, ABNORMAL, (221, 130, 101)),
    "necrosis": ("Necrosis", NECROSIS, ABNORMAL, (150, 98, 83)),
    "oedema": ("Oedema", EDEMA, ABNORMAL, (140, 224, 228)),
    "bundle": ("Neurovascular bundle", BUNDLE, ANATOMICAL, (244, 214, 49)),
    "bone": ("Bone", BONE, ANATOMICAL, (241, 214, 145)),
}
BASELINE, FOLLOW_UP = "first study known", "follow-up"

TRAINING_DATA = "simulated MR of limbs with a sarcoma (phantoms); no image of a patient"
TRAINED = (
    "Everything here was outlined by a network that has seen simulated limbs only and is not validated on images of "
    "patients: outlines, sizes, distances, the 5 cm criterion, necrosis and response are for research. Bundle and bone "
    "of a patient may be missed or outlined elsewhere: do not plan a treatment by them or by the GTV."
)
NOT_FOUND = (
    f"No mass of at least {SMALLEST:g} mL was found; this does not exclude one, and is no complete response. "
    "The network that searched the images has seen simulated limbs only: look at the images."
)
ALONE = "There is no earlier study to compare with: changes and the response by RECIST 1.1 could not be determined."
ONE_MASS = (
    "The largest mass alone is followed, as the one target lesion; other lesions and new ones are not looked for, so "
    "the response by RECIST 1.1 is that of this lesion and not of the patient."
)
UNSEEN = "The network did without {}: its outlines are less sure."


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
        """The structures on the grid of the series "t1w", and what changed since the earlier time points. Those are
        outlined by the same network, each on its own grid."""
        started_at = datetime.now(UTC)
        progress("reading", 0.0)
        volumes, notes = self._read(inputs, 0)
        network = engine.load_state(SliceUNet, weights_path(self.manifest), self._sha256)

        def infer(image: Tensor) -> Tensor:
            return engine.whole(network, image)

        points = sorted({split_key(key)[1] for key in inputs} - {0})
        earlier: dict[int, Examination] = {}
        for done, point in enumerate(points):
            progress("segmenting an earlier study", 0.1 + 0.8 * done / (len(points) + 1))
            try:
                before = examine(self._read(inputs, point)[0], infer, self._threshold)
            except InputRefused as error:
                notes = (*notes, f"The earlier study{_of(inputs, point)} was left out: {error}.")
                continue
            if "mass" in before.masks:
                earlier[point] = before
            else:
                notes = (*notes, f"The earlier study{_of(inputs, point)} was left out: no mass was found in it.")
        progress("segmenting", 0.1 + 0.8 * len(points) / (len(points) + 1))
        now = examine(volumes, infer, self._threshold)
        progress("measuring", 0.9)
        return self._findings(inputs, earlier, now, notes, started_at)

    def _read(self, inputs: Mapping[str, SeriesInput], point: int) -> tuple[Volumes, tuple[str, ...]]:
        """The volumes of a time point. Raises InputRefused where one of REQUIRED makes none, and of the gate."""
        required = {}
        for name in REQUIRED:
            if (key := input_key(name, point)) not in inputs:
                raise InputRefused(f"it has no {name} series")
            required[name] = (read_volume(inputs[key].paths),)
        check(required["t1w"][0], self._reference)
        volumes, notes = read_optional(inputs, OPTIONAL, point)
        return volumes | required, notes

    def _findings(
        self, inputs: Mapping[str, SeriesInput], earlier: Mapping[int, Examination], now: Examination,
        notes: Sequence[str], started_at: datetime,
    ) -> Findings:  # fmt: skip
        found = "mass" in now.masks
        compared = [*earlier.values(), now] if found else []
        first = inputs[input_key("t1w", min(earlier, default=0))].series_instance_uid
        return Findings(
            source=now.source,
            inputs=now.inputs,
            segments=tuple(self._segment(name, now, first) for name in SEGMENTS if name in now.masks),
            algorithm=self.algorithm,
            title=self.manifest.title,
            started_at=started_at,
            measurements=changes(compared) if found else (),
            evaluations=response(compared) if found else (),
            maps=now.panel.maps,
            time_point=TimePoint(FOLLOW_UP if earlier else BASELINE, len(earlier) + 1),
            notes=(
                *((TRAINED, *_compared(inputs, earlier, compared)) if found else (NOT_FOUND,)),
                *notes,
                *now.notes,
                *_unseen(now),
                *(now.panel.notes(now.masks["mass"]) if found else ()),
                *_not_found(now),
            ),
            research=self.research,
        )

    def _segment(self, name: str, now: Examination, first: str) -> Segment:
        """A structure keeps the tracking UID that it has in the first study of the comparison."""
        label, kind, category, color = SEGMENTS[name]
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
    if name in ("bundle", "bone"):  # they leave the images at both ends: their volume says nothing
        return (), ()
    if name != "mass":
        return (Measurement(VOLUME, now.volume(name), CM3),), ()
    mask, geometry = now.masks["mass"], now.source.geometry
    over = YES if now.diameters.maximum_3d > CRITERION else NO
    volume, long_axis, short_axis, maximum_3d = size(mask, geometry)
    return (
        # What the trial asks for first: OHIF draws five values of a finding on the image and no more.
        volume,
        long_axis,
        _distance(BUNDLE_DISTANCE, now.distance("bundle")),
        _distance(BONE_DISTANCE, now.distance("bone")),
        Measurement(NECROTIC, now.necrotic, PERCENT),
        short_axis,
        maximum_3d,
        *now.panel.measurements(mask),
    ), (Evaluation(OVER_5_CM, over),)


def _distance(name: Code, found: float | None) -> Measurement:
    return Measurement(name, found, MM, missing=MEASUREMENT_FAILURE if found is None else None)


def _compared(
    inputs: Mapping[str, SeriesInput], earlier: Mapping[int, Examination], compared: Sequence[Examination]
) -> tuple[str, ...]:
    """With what the mass was compared, and why there is no response where there is none."""
    if not earlier:
        return (ALONE,)
    with_what = ", ".join(f"study {n}{_of(inputs, point)}" for n, point in enumerate(earlier, start=1))
    found = course(compared)
    without = (f"There is no response by RECIST 1.1: {found.reason}.",) if isinstance(found, Missing) else ()
    return (f"Compared with {with_what}; the first of them counts as the baseline.", ONE_MASS, *without)


def _of(inputs: Mapping[str, SeriesInput], point: int) -> str:
    """ " of <date>", where the images say it."""
    dates: list[date] = [one.acquired for one in inputs.values() if one.time_point == point and one.acquired]
    return f" of {min(dates).isoformat()}" if dates else ""


def _unseen(now: Examination) -> tuple[str, ...]:
    missing = [name for name in CONTRASTS if name not in now.seen]
    return (UNSEEN.format(", ".join(missing)),) if missing else ()


def _not_found(now: Examination) -> tuple[str, ...]:
    missing = [SEGMENTS[name][0] for name in ("bundle", "bone") if name not in now.masks]
    if not missing or "mass" not in now.masks:
        return ()
    return (f"Not outlined, so that the mass has no distance from it: {', '.join(missing)}.",)
