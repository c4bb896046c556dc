"""The inputs from which the objects of one result are built, and those objects that others refer to."""

from collections.abc import Callable
from dataclasses import replace

from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.profiles import ObjectProfile
from inference.contract.findings import Findings
from storage.records.results import ObjectKind


class ResultParts:
    """The result for destinations of one profile. `create` builds the objects of a kind."""

    def __init__(
        self,
        findings: Findings,
        context: ObjectContext,
        profile: ObjectProfile,
        create: Callable[[ObjectKind, "ResultParts"], list[Dataset]],
    ) -> None:
        self.findings = findings
        self.context = context
        self.profile = profile
        self._create = create
        self._built: dict[ObjectKind, list[Dataset]] = {}

    def build(self, kind: ObjectKind) -> list[Dataset]:
        """Return the objects of a kind, which are built when they are first asked for."""
        if kind not in self._built:
            self._built[kind] = self._create(kind, self)
        return self._built[kind]

    def requested(self, kind: ObjectKind) -> Dataset | None:
        """Return the object of this kind; None if the profile does not ask for the kind, or if there is no object."""
        return next(iter(self.build(kind)), None) if kind in self.profile.objects else None

    def variant(self, kind: ObjectKind) -> ObjectContext:
        """Return a context for building an object a second time in another form, with UIDs unlike the first one's."""
        return replace(self.context, uid_seed=f"{self.context.uid_seed}/{kind}")
