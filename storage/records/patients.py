"""Records of the patient that an instance states, and the decision if the instances of a study state one patient."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import combinations, permutations, product
from typing import Any

MOST_IDENTITIES = 64  # of one study; a study with more is of several patients without comparing each pair


@dataclass(frozen=True)
class PatientIdentity:
    """The statements of an instance about its patient (PS3.3 C.7.1.1). A value that states nothing is empty.

    Values are only ever compared. They are in clear in the header of an instance, and keyed hashes in the database.
    `others` are the further Patient IDs, each with its issuer, by which the instance says the patient is known.
    """

    patient_id: str = ""
    issuer: str = ""
    birth_date: str = ""
    sex: str = ""
    others: tuple[tuple[str, str], ...] = ()

    def contradicts(self, other: "PatientIdentity") -> bool:
        """Return True if both cannot be one patient. An empty value contradicts nothing.

        The patient's name is not compared, because its spelling varies.
        """
        return bool(contradictions((self, other)))

    def agrees(self, other: "PatientIdentity") -> bool:
        """Return True if both state the same Patient ID, and contradict each other in nothing."""
        return self == other or (
            bool(self.patient_id) and self.patient_id == other.patient_id and not self.contradicts(other)
        )

    def names(self, other: "PatientIdentity") -> bool:
        """Return True if the Patient ID of `other` is among the other Patient IDs of this one."""
        return bool(other.patient_id) and any(
            one == other.patient_id and not (issuer and other.issuer and issuer != other.issuer)
            for one, issuer in self.others
        )

    def to_json(self) -> dict[str, Any]:
        """Return the values that are not empty."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name))}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "PatientIdentity":
        others = tuple((one, issuer) for one, issuer in plain.get("others", ()))
        return cls(**{**{k: v for k, v in plain.items() if k in cls.__dataclass_fields__}, "others": others})


NOBODY = PatientIdentity()


@dataclass(frozen=True)
class Subject:
    """An identity with keyed hashes in place of values, and the name of their key (`storage.log.patient_key`)."""

    key: str
    hashes: PatientIdentity = NOBODY


@dataclass(frozen=True)
class StudyBatch:
    """The studies of a batch whose patient is not identified. The next batch follows `last`, or none if it is None."""

    unidentified: tuple[str, ...]
    last: str | None


def contradictions(identities: Sequence[PatientIdentity]) -> list[str]:
    """Return the attributes by which the identities contradict one another, as DICOM names them."""
    found = []
    if _distinct(i.patient_id for i in identities) > 1:
        found.append("Patient ID")
    numbers = {i.patient_id for i in identities if i.patient_id}
    if any(_distinct(i.issuer for i in identities if i.patient_id == number) > 1 for number in numbers):
        found.append("Issuer of Patient ID")
    if _distinct(i.birth_date for i in identities) > 1:
        found.append("Patient's Birth Date")
    if _distinct(i.sex for i in identities) > 1:
        found.append("Patient's Sex")
    return found


def _distinct(values: Iterable[str]) -> int:
    return len({value for value in values if value})


@dataclass(frozen=True)
class IdentityGroup:
    """The instances of a study that state the same about their patient."""

    identity: PatientIdentity
    instances: int
    last_received_at: datetime


@dataclass(frozen=True)
class IdentityConflict:
    """The contradiction between identities in one study. `text` names attributes and numbers, and never a value.

    `is_correction` is True if the identities are of one patient whose data are being corrected.
    """

    is_correction: bool
    text: str


@dataclass(frozen=True)
class StudyIdentities:
    """The patients that the instances of a study state, without results of this node.

    `corrected` holds pairs of indices into `groups`: an instance of the study was seen under both identities. `key` is
    the name of the key of their hashes.
    """

    groups: tuple[IdentityGroup, ...] = ()
    corrected: frozenset[tuple[int, int]] = frozenset()
    key: str = ""

    def conflict(self) -> IdentityConflict | None:
        """Return the contradiction in this study; None if all instances can be of one patient.

        It is a correction if one instance was seen under both identities, or if one identity lists the ID of the other
        among its Other Patient IDs. Otherwise images of several patients were mixed up.
        """
        differing = contradictions([group.identity for group in self.groups])
        if not differing:
            return None
        attributes = listed(differing)
        total = sum(group.instances for group in self.groups)
        if self._is_one_patient():
            newest = max(self.groups, key=lambda group: group.last_received_at)
            text = f"a correction of the patient ({attributes}) has reached {newest.instances} of {total} instances"
            return IdentityConflict(True, text)
        return IdentityConflict(
            False, f"its {total} instances state different patients: they contradict one another in {attributes}"
        )

    def differ(self, other: "StudyIdentities") -> bool:
        """Return True if the studies state different birth dates or sexes. Hashes under different keys tell nothing."""
        return self.key == other.key and any(
            value and compared and value != compared
            for name in ("birth_date", "sex")
            for value, compared in product(self._stated(name), other._stated(name))
        )

    def _stated(self, name: str) -> set[str]:
        return {getattr(group.identity, name) for group in self.groups}

    def _is_one_patient(self) -> bool:
        """Return True if a correction explains every contradiction."""
        if len(self.groups) > MOST_IDENTITIES:
            return False
        identities = [group.identity for group in self.groups]
        corrections = [(identities[a], identities[b]) for a, b in self.corrected]
        corrections += [(one, other) for one, other in permutations(identities, 2) if one.names(other)]
        return all(
            _explains(corrections, one, other) for one, other in combinations(identities, 2) if one.contradicts(other)
        )


def _explains(
    corrections: Sequence[tuple[PatientIdentity, PatientIdentity]], one: PatientIdentity, other: PatientIdentity
) -> bool:
    return any(
        (before.agrees(one) and after.agrees(other)) or (before.agrees(other) and after.agrees(one))
        for before, after in corrections
    )


def listed(words: Sequence[str]) -> str:
    """Join words as in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
