"""Sentences that the reader of a report needs in addition to its numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from inference.applications.extremity_sts_sbrt.course import recist_course
from inference.applications.extremity_sts_sbrt.examination import Examination
from inference.applications.extremity_sts_sbrt.network import CONTRASTS, LABELS
from inference.applications.extremity_sts_sbrt.preprocessing import SMALLEST_STRUCTURE
from inference.contract.findings import Code
from inference.quantities.missing import Missing
from inference.quantities.panel_quantities import ADC

TRAINED = (
    "Everything here was outlined by a network that has seen simulated limbs only and is not validated on images of "
    "patients: outlines, sizes, distances, the 5 cm criterion, necrosis and response are for research. Bundle and bone "
    "of a patient may be missed or outlined elsewhere: do not plan a treatment by them or by the GTV."
)
NOT_FOUND = (
    f"No mass of at least {SMALLEST_STRUCTURE:g} mL was found; this does not exclude one, and is no complete response. "
    "The network that searched the images has seen simulated limbs only: look at the images."
)
NOT_COMPARED = "No earlier study could be compared: changes and the response by RECIST 1.1 could not be determined."
ONE_MASS = (
    "The largest mass alone is followed, as the one target lesion; other lesions and new ones are not looked for, so "
    "the response by RECIST 1.1 is that of this lesion and not of the patient. Whether the studies show the same mass "
    "was not examined."
)
CUT_OFF = "The mass reaches the edge of what was imaged: its sizes are the least they can be."
PARTLY = "Only where the fat-suppressed T2w lies over the T1w was anything searched: {:.0%} of the limb."
ALL = 0.99  # of the limb: two series need not end at the same voxel to cover all of it
UNSEEN = "The network did without {}: its outlines are less sure."
OTHER_CONTRASTS = (
    "The earlier study{} was outlined by other contrasts ({}) than this one: a part of the changes may come from that."
)
NO_ADC_CHANGE = "The change of the mean ADC could not be determined: the ADC of one of the studies is missing."
OTHER_ADC = (
    "In one of the studies the ADC was fitted to the diffusion series, in another it is the scanner's map: a part of "
    "its change may come from that."
)


@dataclass(frozen=True, eq=False)
class EarlierTimePoint:
    """An earlier time point with its examination, or with the reason why it has none."""

    point: int
    acquired: date | None
    examination: Examination | None
    refused: str = ""

    @property
    def of(self) -> str:
        """The words "of" and the date, after a space; empty if the images have no date."""
        return f" of {self.acquired.isoformat()}" if self.acquired else ""

    @property
    def comparable(self) -> Examination | None:
        """The examination if it found a mass, else None."""
        return self.examination if self.examination and "mass" in self.examination.masks else None

    @property
    def left_out(self) -> str:
        """The reason why this time point cannot be compared; empty if it can."""
        if self.examination is None:
            return self.refused
        return "" if self.comparable else "no mass was found in it"


def report_notes(now: Examination, earlier: Sequence[EarlierTimePoint]) -> tuple[str, ...]:
    """Return the notes of a report, the most important first. `earlier` are all earlier time points, oldest first."""
    found = "mass" in now.masks
    usable = [(one.of, one.comparable) for one in earlier if one.comparable]
    return (
        TRAINED if found else NOT_FOUND,
        *(_compared(now, usable) if found else ()),
        *(f"The earlier study{one.of} was left out: {one.left_out}." for one in earlier if one.left_out),
        *_told(now),
        *(f"In the earlier study{of}: {note}" for of, before in usable for note in _limits(before)),
    )


def _compared(now: Examination, usable: Sequence[tuple[str, Examination]]) -> Iterator[str]:
    """Yield notes on the comparison: its studies, its limits, and the reason if there is no response."""
    if not usable:
        yield NOT_COMPARED
        return
    with_what = ", ".join(f"study {n}{of}" for n, (of, _) in enumerate(usable, start=1))
    yield f"Compared with {with_what}; the first of them counts as the baseline."
    yield ONE_MASS
    compared = [*(before for _, before in usable), now]
    found = recist_course(compared)
    if isinstance(found, Missing):
        yield f"There is no response by RECIST 1.1: {found.reason}."
    for of, before in usable:
        if set(before.seen) != set(now.seen):
            yield OTHER_CONTRASTS.format(of, ", ".join(before.seen))
    if compared[0].adc is None or now.adc is None:
        yield NO_ADC_CHANGE
    elif _adc_method(compared[0]) != _adc_method(now):
        yield OTHER_ADC


def _told(now: Examination) -> Iterator[str]:
    yield from _limits(now)
    missing = [name for name in CONTRASTS if name not in now.seen]
    if missing:
        yield UNSEEN.format(", ".join(missing))
    if "mass" not in now.masks:
        return
    yield from now.panel.notes(now.masks["mass"])
    unknown = [LABELS[name] for name in ("bundle", "bone") if name not in now.masks]
    if unknown:
        yield f"Not outlined, so that the mass has no distance from it: {', '.join(unknown)}."


def _limits(one: Examination) -> Iterator[str]:
    """Yield notes on the limits of one examination, whichever its time point."""
    yield from one.notes
    yield from one.panel.assumed
    if one.searched_share < ALL:
        yield PARTLY.format(one.searched_share)
    if "mass" in one.masks and one.cut_off:
        yield CUT_OFF


def _adc_method(one: Examination) -> Code | None:
    return next((found.method for found in one.panel.maps if found.quantity == ADC.code), None)
