"""The choice of the objects that are sent to a destination that refuses some objects of a job. Pure decisions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dicom_node.objects.registry import OBJECT_TYPES
from storage.records.deliveries import Undelivered
from storage.records.results import ObjectKind


@dataclass(frozen=True)
class Offer:
    """An object of a job that a destination may get. `arrived` means that the destination has it already."""

    id: int
    kind: ObjectKind
    stands_for: tuple[ObjectKind, ...] = ()  # empty for what is to be sent if the destination takes everything
    arrived: bool = False


@dataclass(frozen=True)
class DeliveryChoice:
    """The ids of the objects to be sent, in order, and the reason for each that is not sent."""

    sent: tuple[int, ...]
    unsent: Mapping[int, Undelivered]


def choose(offers: Sequence[Offer], refusals: Mapping[int, str], alone: Collection[int] = ()) -> DeliveryChoice:
    """Choose the objects for a destination that refuses those in `refusals`, which gives the reason for each.

    Nothing is sent in place of the refused objects in `alone`, because the destination may have them.

    `offers` come in the order of delivery. For each object that is no stand-in, choose the object itself, or else its
    first stand-in that the destination takes. A report that refers to a SEG is sent only together with that SEG, and a
    Key Object Selection only together with all that it names. Reports without a SEG are sent only where the SEG is not.
    """
    primaries = [offer for offer in offers if not offer.stands_for]
    chosen: dict[int, Offer | None] = {}
    lacking: set[ObjectKind] = set()  # kinds that were to be sent and are not
    for primary in primaries:
        stand_ins = [o for kind in OBJECT_TYPES[primary.kind].stand_ins for o in offers if o.kind is kind]
        possible = (primary,) if primary.id in alone else (primary, *stand_ins)
        taken = (o for o in possible if o.arrived or (o.id not in refusals and _fits(o.kind, lacking)))
        chosen[primary.id] = next(taken, None)
        if chosen[primary.id] is not primary:
            lacking.add(primary.kind)
    sent = {offer.id for offer in chosen.values() if offer is not None}
    unsent: dict[int, Undelivered] = {}
    for offer in offers:
        if offer.id not in sent:
            why = refusals.get(offer.id) or _why_unfit(offer.kind, lacking)
            wanted = [o for o in primaries if o is offer or o.kind in offer.stands_for]
            unsent[offer.id] = _unsent(why, {o.kind: chosen[o.id] for o in wanted})
    return DeliveryChoice(tuple(offer.id for offer in offers if offer.id in sent), unsent)


def _fits(kind: ObjectKind, lacking: Collection[ObjectKind]) -> bool:
    one = OBJECT_TYPES[kind]
    return one.useful_without in (None, *lacking) and not one.refers_to.intersection(lacking)


def _why_unfit(kind: ObjectKind, lacking: Collection[ObjectKind]) -> str:
    missing = [other for other in OBJECT_TYPES if other in OBJECT_TYPES[kind].refers_to and other in lacking]
    return f"it refers to {' and '.join(missing)}, which is not sent" if missing else "it is not needed"


def _unsent(why: str, instead: Mapping[ObjectKind, Offer | None]) -> Undelivered:
    """Return the reason why an object is not sent.

    `instead` maps the kinds that the object would have served to the object that is sent for this kind now.
    """
    substitutes = dict.fromkeys(offer.kind for kind, offer in instead.items() if offer and offer.kind is not kind)
    bare = [kind for kind, offer in instead.items() if offer is None]
    if bare:
        return Undelivered(f"{why}; nothing can be sent in place of {' and '.join(bare)}", replaced=False)
    return Undelivered(f"{why}; sent instead: {', '.join(substitutes)}" if substitutes else why, replaced=True)
