"""An instance store in memory and a folder: what `storage.instances.InstanceStore` promises to the receiver."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.records import AssociationEnd, ReceivedInstance, Stored


@dataclass
class FakeStore:
    """`before` runs ahead of each store, to fail or to wait there."""

    before: Callable[[ReceivedInstance], None] = lambda instance: None
    instances: dict[str, ReceivedInstance] = field(default_factory=dict)
    quarantine: list[ReceivedInstance] = field(default_factory=list)
    open_associations: dict[int, tuple[str, str, str, str]] = field(default_factory=dict)
    ended: list[tuple[int, AssociationEnd]] = field(default_factory=list)
    aborted_for: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def store(self, instance: ReceivedInstance) -> Stored:
        self.before(instance)
        with self._lock:
            known = self.instances.get(instance.sop_instance_uid)
            if known is None:
                self.instances[instance.sop_instance_uid] = instance
                return Stored.NEW
            if known.dataset == instance.dataset:
                return Stored.DUPLICATE
            self.quarantine.append(instance)
            return Stored.CONFLICT

    def open_association(self, calling_ae_title: str, called_ae_title: str, peer_host: str, receiver: str) -> int:
        with self._lock:
            number = len(self.open_associations) + len(self.ended) + 1
            self.open_associations[number] = (calling_ae_title, called_ae_title, peer_host, receiver)
            return number

    def end_association(self, association_id: int, end: AssociationEnd) -> None:
        with self._lock:
            del self.open_associations[association_id]
            self.ended.append((association_id, end))

    def abort_stale_associations(self, receiver: str) -> None:
        self.aborted_for.append(receiver)

    def digests(self) -> dict[str, str]:
        return {uid: hashlib.sha256(i.dataset).hexdigest() for uid, i in self.instances.items()}
