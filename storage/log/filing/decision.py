"""The decision on each instance that arrives: new, known already, changed, copied, or in conflict with a known one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from storage.log.filing.comparison import Difference
from storage.log.filing.entries import IndexEntry
from storage.records.instances import InstancePlace, Stored


@dataclass(frozen=True)
class Known:
    """The entries of one SOP instance: the current version in each place, the first place first, and all versions."""

    current: Mapping[InstancePlace, IndexEntry]
    versions: Mapping[tuple[InstancePlace, str], IndexEntry]  # by place and checksum


@dataclass(frozen=True)
class Comparisons:
    """The comparisons that need the content of two instances, and may read it."""

    difference: Callable[[IndexEntry, IndexEntry], Difference]
    has_same_pixels: Callable[[IndexEntry, IndexEntry], bool]
    is_intact: Callable[[IndexEntry], bool]


@dataclass(frozen=True)
class Decided:
    """The decision on an instance: `entry` is what is to be listed, `before` what its place held.

    `elsewhere` are the other places of the SOP instance. `restores` says that the bytes of the known entry are damaged,
    and that those of the new one take their place.
    """

    entry: IndexEntry
    outcome: Stored
    association: str | None
    before: IndexEntry | None = None
    elsewhere: tuple[IndexEntry, ...] = ()
    restores: bool = False


_LISTED = (Stored.NEW, Stored.COPY, Stored.VERSION)


class Decisions:
    """The decisions on the instances of a batch, in the order of their arrival. Each knows those before it."""

    def __init__(self, known: Mapping[str, Known], comparisons: Comparisons) -> None:
        self._compare = comparisons
        self._current = {uid: dict(one.current) for uid, one in known.items()}
        self._versions = {key: entry for one in known.values() for key, entry in one.versions.items()}

    def decide(self, entry: IndexEntry, association: str | None) -> Decided:
        """Return the decision on the next instance. Raises OSError if the disk is in trouble."""
        current = self._current.setdefault(entry.sop_instance_uid, {})
        before = current.get(entry.place)
        elsewhere = tuple(other for place, other in current.items() if place != entry.place)
        if before is None:
            decided = self._new(entry, association, elsewhere)
        else:
            decided = replace(self._again(entry, before), association=association, elsewhere=elsewhere)
        if decided.outcome in _LISTED or decided.restores:
            current[entry.place] = decided.entry
            self._versions[entry.place, entry.sha256] = decided.entry
        return decided

    def _new(self, entry: IndexEntry, association: str | None, elsewhere: tuple[IndexEntry, ...]) -> Decided:
        outcome = Stored.NEW
        if elsewhere:
            is_copy = any(self._compare.has_same_pixels(other, entry) for other in elsewhere)
            outcome = Stored.COPY if is_copy else Stored.CONFLICT
        return Decided(entry, outcome, association, None, elsewhere)

    def _again(self, entry: IndexEntry, before: IndexEntry) -> Decided:
        """Decide on an instance whose place is taken. An older version that comes again becomes the current one."""
        if before.sha256 == entry.sha256:
            return self._duplicate(entry, before)
        version = self._versions.get((entry.place, entry.sha256))
        if version is not None:
            return self._version_again(entry, before, version)
        match self._compare.difference(before, entry):
            case Difference.NONE:
                return self._duplicate(entry, before)
            case Difference.ATTRIBUTES:
                return Decided(entry, Stored.VERSION, None, before)
            case Difference.IMAGE:
                return Decided(entry, Stored.CONFLICT, None, before)

    def _version_again(self, entry: IndexEntry, before: IndexEntry, version: IndexEntry) -> Decided:
        # A journal that is read again brings older times.
        outcome = Stored.VERSION if entry.received_at > before.received_at else Stored.DUPLICATE
        if version.address == entry.address or self._compare.is_intact(version):
            lies = replace(entry, address=version.address, file=version.file, size=version.size)
            return Decided(lies, outcome, None, before)
        return Decided(entry, outcome, None, before, restores=True)

    def _duplicate(self, entry: IndexEntry, before: IndexEntry) -> Decided:
        """Keep what is known, unless a loss of power or a bad disk damaged it."""
        if before.address == entry.address or self._compare.is_intact(before):
            return Decided(before, Stored.DUPLICATE, None, before)
        return Decided(entry, Stored.DUPLICATE, None, before, restores=True)
