"""The physics that headers state, one record for each image: a classic instance, or a frame of an Enhanced object.

Classic and Enhanced MR have the same facts in different places (PS3.3 C.8.3.1 and C.8.13); `image_rules` gets only
`ImageFacts`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from inference.headers.decoding import varying_values
from inference.headers.diffusion import b_value
from inference.headers.image_content import MAGNITUDE, code_strings, content_of, ge_component
from inference.headers.private import PrivateElements
from inference.series.units import PixelUnit, pixel_unit_of
from inference.volumes.planes import is_enhanced, number, shared_groups

NO_AGENT = frozenset({"", "NO", "NONE", "N", "0", "NIL", "NA", "N/A", "NO CONTRAST", "WITHOUT"})
FAT_BY_NAME = re.compile(
    r"(?P<no>(?<![a-z])(no|non|w/?o|without)[ _.-]*)?(fat.?sat|(?<![a-z])(fs|stir|spair|spir)(?![a-z]))"
)
GATED_OPTIONS = frozenset({"CG", "PPG", "CARDIAC_GATING", "CARDIAC", "ECG", "VCG"})
ECHO_PLANAR_TRAIN = 8  # gradient echoes after one pulse, at least: shorter trains are those of several echo times
PLANAR_BY_NAME = re.compile(r"\*?ep(fid|se|2d|_b|_calc)")  # sequences of Siemens
UNSPOILED = frozenset({"FREE_PRECESSION", "TRANSVERSE", "TIME_REVERSED"})
CODED_QUANTITIES = {
    "113041": "ADC", "110808": "FA", "113063": "T1_MAP", "113065": "T2_MAP", "113064": "T2_STAR_MAP",
    "129100": "FAT_FRACTION",
}  # fmt: skip

MOMENT = ("TemporalPositionIdentifier", "AcquisitionNumber", "AcquisitionTime")
NOTHING = Dataset()
keyword_tag = cache(Tag)


@dataclass(frozen=True)
class ImageFacts:
    """The facts that the header of one image states; a fact is None or empty if the header does not state it.

    Times are in ms, the angle in degrees, the field in T.
    """

    image_type: frozenset[str] = frozenset()  # values 1 and 2 of ImageType and FrameType
    flavours: frozenset[str] = frozenset()  # their other values, and coded quantities, spelled "T1_MAP"
    component: str = MAGNITUDE  # of the complex signal
    frame_type: str | None = None  # the map or the image of a Dixon acquisition that ImageType or FrameType names
    unit: PixelUnit = PixelUnit.NONE  # of its values
    sequence: frozenset[str] = frozenset()  # SE, IR, GR, EP, RM
    variant: frozenset[str] = frozenset()
    sequence_name: str = ""  # the name that the vendor gives it, in lower case
    declared: str = ""  # AcquisitionContrast of Enhanced objects
    repetition_time: float | None = None
    echo_time: float | None = None
    echo_train: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    trigger_time: float | None = None
    field_strength: float | None = None
    b_value: float | None = None  # s/mm2
    fat_suppressed: bool | None = None
    gated: bool = False  # acquired in step with the heart
    heart_phases: float = 0  # as declared
    agent: bool = False
    labelled: bool = False  # arterial spins are labelled
    flow: bool = False  # shows time of flight, or encodes velocities
    colour: bool = False
    captured: bool = False  # is a secondary capture
    position: tuple[float, ...] = ()  # mm
    moment: tuple[Any, ...] = ()  # differs between time points of one place
    time_points: float = 0  # as declared
    laterality: str = ""  # R, L, U (unpaired), B (both): PS3.3 C.7.6.16.2.8
    title: str = ""  # SeriesDescription, in lower case
    description: str = ""  # all texts that name it, in lower case
    like: "ImageFacts | None" = field(default=None, compare=False, repr=False)  # see `facts_like`

    @property
    def derived(self) -> bool:
        return "DERIVED" in self.image_type


def facts_of(ds: Dataset) -> Iterator[ImageFacts]:
    """Yield the facts of each image in `ds`, in frame order. Numbers that are absent or unreadable are None."""
    private = PrivateElements(ds)
    common = _common(ds, private)
    if not is_enhanced(ds):
        yield _facts(common, ds, _Classic(ds, private))
        return
    for own in ds.PerFrameFunctionalGroupsSequence:
        yield _facts(common, ds, _Enhanced(ds, own, shared_groups(ds)))


def facts_like(known: ImageFacts, ds: Dataset) -> ImageFacts:
    """Return the facts of a classic image. Those of another image are `known`, whose header has the same pattern.

    They differ in place and time alone, and name `known` as what they are like.
    """
    varying = varying_values(ds)
    trigger_time = number(varying.get("TriggerTime"))
    if bool(trigger_time) != (known.trigger_time is not None) or "PlanePositionSequence" in ds:
        (facts,) = facts_of(ds)  # a trigger is a sign of gating too
        return facts
    places = (number(value) for value in varying.get("ImagePositionPatient") or ())
    return replace(
        known,
        position=tuple(place for place in places if place is not None),
        moment=(*(str(varying.get(keyword, "")) for keyword in MOMENT), trigger_time),
        trigger_time=trigger_time or None,
        like=known,
    )


class _Classic:
    """A classic instance, with the places of the attributes that Enhanced objects keep in functional groups."""

    def __init__(self, ds: Dataset, private: PrivateElements) -> None:
        self.ds = ds
        self.private = private

    def group(self, name: str) -> Dataset:
        """Return the first item of that sequence, or the dataset itself, which holds most of the same attributes."""
        items = self.ds.get(name)
        return items[0] if items else self.ds

    @property
    def image_type(self) -> list[str]:
        values = code_strings(self.ds.get("ImageType"))
        component = ge_component(self.private)
        return [*values, component] if component not in ("", "M") and len(values) > 1 else values

    @property
    def sequence(self) -> frozenset[str]:
        found = frozenset(code_strings(self.ds.get("ScanningSequence")))
        factor = self.private.numbers(0x2001, "Philips Imaging DD 001", 0x13, "SL", "PHILIPS")
        name = str(self.ds.get("SequenceName") or self.ds.get("PulseSequenceName") or "").lower()
        planar = bool(factor and factor[0] >= ECHO_PLANAR_TRAIN) or PLANAR_BY_NAME.match(name) is not None
        return found | {"EP"} if planar else found

    @property
    def echo_time(self) -> float | None:
        return number(self.ds.get("EchoTime"))

    @property
    def inversion_time(self) -> float | None:
        return number(_first(self.ds.get("InversionTime")))

    @property
    def trigger_time(self) -> float | None:
        return number(self.ds.get("TriggerTime"))

    @property
    def b_value(self) -> float | None:
        return b_value(self.ds)

    def suppression(self, named: bool) -> bool | None:
        """Return True if fat is suppressed, by the header.

        `named` is True if the name of the series says so; it decides if the header does not.
        """
        options = self.ds.get("ScanOptions")
        if {"FS", "WE", "FAT_SAT"} & set(code_strings(options)):
            return True
        spir = self.private.text(0x2001, "Philips Imaging DD 001", 0x21, "PHILIPS")
        if spir == "Y":
            return True
        planar = "EP" in self.sequence  # may excite water alone without saying so in ScanOptions
        if named and (planar or not (options or spir == "N")):
            return True
        if planar:
            return None
        return False if options is not None or spir == "N" else None

    @property
    def moment(self) -> tuple[Any, ...]:
        return (*(str(self.ds.get(keyword, "")) for keyword in MOMENT), self.trigger_time)


class _Enhanced:
    """A frame: its own functional groups, and those that all frames share."""

    private = None

    def __init__(self, ds: Dataset, own: Dataset, shared: Dataset) -> None:
        self.ds = ds
        self.own = own
        self.shared = shared

    def group(self, name: str) -> Dataset:
        """Return the first item of that functional group; an empty dataset if there is none."""
        tag = keyword_tag(name)
        for groups in (self.own, self.shared):
            if tag in groups and groups[tag].value:
                item: Dataset = groups[tag].value[0]
                return item
        return NOTHING

    @property
    def image_type(self) -> list[str]:
        values = code_strings(self.group("MRImageFrameTypeSequence").get("FrameType"))
        return values or code_strings(self.ds.get("ImageType"))

    @property
    def sequence(self) -> frozenset[str]:
        """ScanningSequence values, from the attributes that Enhanced objects have instead (PS3.3 C.8.13.4)."""
        ds = self.ds
        found = {"SPIN": {"SE"}, "GRADIENT": {"GR"}, "BOTH": {"SE", "GR"}}.get(str(ds.get("EchoPulseSequence")), set())
        if ds.get("EchoPlanarPulseSequence") == "YES":
            found = found | {"EP"}
        if self.group("MRModifierSequence").get("InversionRecovery") == "YES":
            found = found | {"IR"}
        return frozenset(found) | self._told_by_trains(bool(found))

    def _told_by_trains(self, named: bool) -> frozenset[str]:
        """Return what the numbers of refocusing pulses and of gradient echoes in a train tell of the sequence."""
        timing = self.group("MRTimingAndRelatedParametersSequence")
        pulses, gradients = (number(timing.get(k)) for k in ("RFEchoTrainLength", "GradientEchoTrainLength"))
        if pulses is None or gradients is None:
            return frozenset()
        planar = {"EP"} if gradients >= ECHO_PLANAR_TRAIN else set()
        if named:  # then the object itself says whether it is a spin echo
            return frozenset(planar)
        return frozenset(planar | ({"SE"} if pulses else {"GR"} if gradients else set()))

    @property
    def echo_time(self) -> float | None:
        return number(self.group("MREchoSequence").get("EffectiveEchoTime"))

    @property
    def inversion_time(self) -> float | None:
        return number(_first(self.group("MRModifierSequence").get("InversionTimes")))

    @property
    def trigger_time(self) -> float | None:
        return number(self.group("CardiacSynchronizationSequence").get("NominalCardiacTriggerDelayTime"))

    @property
    def b_value(self) -> float | None:
        return number(self.group("MRDiffusionSequence").get("DiffusionBValue"))

    def suppression(self, named: bool) -> bool | None:
        suppressed = str(self.ds.get("SpectrallySelectedSuppression") or "")
        excited = str(self.group("MRModifierSequence").get("SpectrallySelectedExcitation") or "")
        if suppressed in ("FAT", "FAT_AND_WATER") or excited == "WATER":
            return True
        if suppressed == "NONE":
            return False
        return True if named else None

    @property
    def moment(self) -> tuple[Any, ...]:
        content = self.group("FrameContentSequence")
        keywords = ("TemporalPositionIndex", "FrameAcquisitionNumber", "FrameAcquisitionDateTime")
        return (*(str(content.get(keyword, "")) for keyword in keywords), self.trigger_time)


def _common(ds: Dataset, private: PrivateElements) -> ImageFacts:
    """Return the facts that hold for every image in `ds`."""
    synchronised = str(ds.get("CardiacSynchronizationTechnique") or "NONE")
    name = (
        str(ds.get("SequenceName") or ds.get("PulseSequenceName") or "")
        or private.text(0x2001, "Philips Imaging DD 001", 0x20, "PHILIPS")
        or private.text(0x0019, "GEMS_ACQU_01", 0x9C, "GE")
    ).lower()
    title, protocol = (str(ds.get(k) or "").strip().lower() for k in ("SeriesDescription", "ProtocolName"))
    manufacturer = str(ds.get("Manufacturer") or "").upper()  # the protocol of GE is that of the whole examination
    asl_label = private.text(0x2005, "Philips MR Imaging DD 005", 0x29, "PHILIPS").upper()
    return ImageFacts(
        variant=_variant(ds),
        sequence_name=name,
        field_strength=number(ds.get("MagneticFieldStrength")),
        gated=synchronised != "NONE" or bool(GATED_OPTIONS & set(code_strings(ds.get("ScanOptions")))),
        heart_phases=number(ds.get("CardiacNumberOfImages")) or 0,
        agent=_agent(ds),
        labelled=asl_label in ("LABEL", "CONTROL"),
        flow=(
            ds.get("PhaseContrast") == "YES"
            or ds.get("TimeOfFlightContrast") == "YES"
            or ds.get("AngioFlag") == "Y"
            or re.search(r"_v\d+(in|rl|ap|fh|th)?$", name) is not None
        ),
        colour=number(ds.get("SamplesPerPixel")) == 3,
        captured="Secondary Capture" in getattr(ds.get("SOPClassUID", ""), "name", ""),
        time_points=number(ds.get("NumberOfTemporalPositions")) or 0,
        title=title,
        description=title if title and manufacturer.startswith("GE") else f"{title} {protocol}",
    )


def _variant(ds: Dataset) -> frozenset[str]:
    """Return SequenceVariant; for Enhanced objects (PS3.3 C.8.13.4) SS if they name a steady state without spoiling."""
    found = frozenset(code_strings(ds.get("SequenceVariant")))
    unspoiled = ds.get("SteadyStatePulseSequence") in UNSPOILED and "RF" not in str(ds.get("Spoiling"))
    return found | {"SS"} if unspoiled else found


def _facts(common: ImageFacts, ds: Dataset, where: _Classic | _Enhanced) -> ImageFacts:
    timing = where.group("MRTimingAndRelatedParametersSequence")
    frame_type = where.group("MRImageFrameTypeSequence")
    usage = where.group("ContrastBolusUsageSequence").get("ContrastBolusAgentAdministered")
    image_type, sequence = where.image_type, where.sequence
    complex_component = frame_type.get("ComplexImageComponent") or ds.get("ComplexImageComponent")
    content = content_of(where.image_type, complex_component, where.private)
    inversion_time = where.inversion_time or None  # 0 means that there is none
    trigger_time = where.trigger_time or None
    named = any(found["no"] is None for found in FAT_BY_NAME.finditer(common.description))
    suppressed = True if is_stir(inversion_time) and "GR" not in sequence else where.suppression(named)
    return replace(
        common,
        image_type=frozenset(image_type[:2]),
        flavours=frozenset(image_type[2:]) | _quantities(where),
        component=content.component,
        frame_type=content.frame_type,
        unit=_unit(where),
        sequence=sequence,
        declared=str(frame_type.get("AcquisitionContrast") or ds.get("AcquisitionContrast") or ""),
        repetition_time=number(timing.get("RepetitionTime")),
        echo_time=where.echo_time,
        echo_train=number(timing.get("EchoTrainLength")),
        inversion_time=inversion_time,
        flip_angle=number(timing.get("FlipAngle")),
        trigger_time=trigger_time,
        b_value=where.b_value,
        fat_suppressed=suppressed,
        gated=common.gated or trigger_time is not None,
        agent=common.agent if usage is None else usage == "YES",
        labelled=common.labelled or bool(where.group("MRArterialSpinLabelingSequence").get("ASLTechniqueDescription")),
        position=_position(where),
        laterality=_laterality(ds, where),
        moment=where.moment,
    )


def is_stir(inversion_time: float | None) -> bool:
    """Return True if the inversion time nulls fat: T1 of fat times ln 2, from 0.5 to 3 T (ms)."""
    return inversion_time is not None and 80 <= inversion_time <= 300


def _agent(ds: Dataset) -> bool:
    return (
        str(ds.get("ContrastBolusAgent") or "").strip().upper() not in NO_AGENT
        or bool(ds.get("ContrastBolusAgentSequence"))
        or bool(number(ds.get("ContrastBolusVolume")))
        or bool(ds.get("ContrastBolusStartTime"))
    )


def _quantities(where: _Classic | _Enhanced) -> frozenset[str]:
    """Return the quantities that the pixels measure, by the codes of real world values or derivation (CID 7203)."""
    mapping = where.group("RealWorldValueMappingSequence")
    codes = [
        concept
        for definition in mapping.get("QuantityDefinitionSequence") or ()
        for concept in definition.get("ConceptCodeSequence") or ()
    ]
    codes += where.group("DerivationImageSequence").get("DerivationCodeSequence") or ()
    found = {CODED_QUANTITIES.get(str(code.get("CodeValue"))) for code in codes}
    return frozenset(name for name in found if name)


def _unit(where: _Classic | _Enhanced) -> PixelUnit:
    """Return the unit of the pixels, by real world values or else by the rescale type."""
    codes = where.group("RealWorldValueMappingSequence").get("MeasurementUnitsCodeSequence") or ()
    texts = [str(code.get("CodeValue") or "") for code in codes]
    texts.append(str(where.group("PixelValueTransformationSequence").get("RescaleType") or ""))
    return next((unit for text in texts if (unit := pixel_unit_of(text)) is not PixelUnit.NONE), PixelUnit.NONE)


def _position(where: _Classic | _Enhanced) -> tuple[float, ...]:
    values = [number(v) for v in where.group("PlanePositionSequence").get("ImagePositionPatient") or ()]
    return tuple(v for v in values if v is not None)


def _laterality(ds: Dataset, where: _Classic | _Enhanced) -> str:
    """Return the laterality that the frame states, or else the image, or else the series."""
    frame = where.group("FrameAnatomySequence").get("FrameLaterality")
    return str(frame or ds.get("ImageLaterality") or ds.get("Laterality") or "").strip().upper()


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value
