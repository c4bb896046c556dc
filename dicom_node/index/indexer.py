"""The `index` role: it gives rows to the instances that receivers have written into their journals.

What lies in a journal stays there. A row says where; the place up to which a journal is filed is a row too, written in
the same transaction. So the process may be killed at any moment, and goes on where the database stands.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.index.journal_filing import JournalFiling, Place, reason_of
from dicom_node.runtime.logs import fields
from storage.errors import IndexLost, Retriable
from storage.log import journal
from storage.log.deletion.deletions import Deletions
from storage.log.deletion.records import TakenRange
from storage.log.filing.reached import read_reached
from storage.log.filing.release01 import OldFiles
from storage.log.instances import InstanceStore
from storage.log.kept_again import KeptHeaders
from storage.log.own_results import OwnResults
from storage.log.routed_studies import RoutedStudies
from storage.log.segments.store import Segments
from storage.tables.database.connection import Database
from storage.tables.problems import Problems

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between looks for new frames
BUSY_SECONDS = 0.25  # the same while frames arrive: few large batches cost less than many small ones
LONGEST_PAUSE_SECONDS = 10.0  # between retries while the database or the disk refuses


class Indexer:
    """The filing of all journals below `journals`. Only one may run for a data directory.

    `claim` makes sure that the database belongs to the data directory, and raises Permanent if it does not.
    """

    def __init__(
        self,
        journals: Path,
        instances: InstanceStore,
        old_files: OldFiles,
        database: Database,
        deletions: Deletions,
        kept_headers: KeptHeaders,
        wait: Callable[[threading.Event, float], bool] = lambda stop, seconds: stop.wait(seconds),
        claim: Callable[[], object] = lambda: None,
    ) -> None:
        self._journals = journals
        self._segments = Segments(journals, deletions.deleted.of)
        self._instances = instances
        self._old_files = old_files
        self._database = database
        self._deletions = deletions
        self._kept_headers = kept_headers
        self._log = deletions.index_log
        self._own_results = OwnResults(database, deletions.index_log)
        self._routed = RoutedStudies(database, deletions.index_log)
        self._filing = JournalFiling(journals, self._segments, instances, deletions.index_log, Problems(database))
        self._claim = claim
        self._wait = wait
        self._places: dict[str, Place] = {}
        self._prepared = False

    def run(self, stop: threading.Event) -> None:
        """File until `stop` is set. Neither failures of the database or the disk nor damaged frames end the loop."""
        pause = LOOK_SECONDS
        while not self._wait(stop, pause):
            try:
                filed = self.advance(stop)
                self.carry_out_deletions()
                if not filed:
                    self._kept_headers.read_again()
                pause = BUSY_SECONDS if filed else LOOK_SECONDS
            except IndexLost:
                extra = fields("index_lost")
                log.error("The database was removed or replaced; the index is rebuilt from the journals", extra=extra)
            except (Retriable, OSError) as error:
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                extra = fields("filing_postponed")
                log.warning(
                    "Filing of received instances is put off for %.1f s: %s", pause, reason_of(error), extra=extra
                )

        self.close()

    def close(self) -> None:
        """End the log of this role. The next call of `prepare` goes on with it."""
        self._log.close()
        self._prepared = False

    def prepare(self) -> None:
        """Bring the database's schema to this version, and learn up to where the journals are filed.

        An empty index first gets the rows of what release 0.1 filed. Raises Permanent if the database belongs to
        another data directory.
        """
        self._database.upgrade()
        self._claim()
        self._log.open()
        self._deletions.prepare()
        self._own_results.prepare()
        if self._instances.is_empty():
            self._old_files.reindex()
            self._old_files.note_aside()
        noted = read_reached(self._database)
        self._places = {one.receiver: Place.at(one) for one in noted}
        self._replay()
        self._routed.prepare()

    def _replay(self) -> None:
        """File again, in the order of before, what the database has lost. Studies that were routed stay so."""
        history = self._log.history({one.receiver: (one.segment, one.offset) for one in self._places.values()})
        if not history:
            return
        journal.unmark_filed(self._journals)  # or studies would seem complete before all of it is back
        extra = fields("index_replayed")
        log.info("The database lacks what was indexed before; it is indexed again from the journals", extra=extra)
        for one in history:
            if isinstance(one, TakenRange):
                place = self._places.setdefault(one.receiver, Place(one.receiver))
                self._filing.replay(place, one)
            else:
                self._routed.restore(one)

    def start_over(self) -> None:
        """File everything from the beginning at the next call of `advance`: rows that are lost come back."""
        self._ensure_prepared()
        self._old_files.reindex()
        for place in self._places.values():
            place.segment = place.offset = 0

    def advance(self, stop: threading.Event | None = None) -> int:
        """File everything in the journals, one segment of each journal in turn; return the number of instances.

        A failure in one journal does not stop the others; it is raised at the end of the round, as Retriable or
        OSError. The next call continues at the same place. Raises IndexLost if the database is another one than before,
        and the next call goes on where that one stands.
        """
        with self._noticing_loss():
            self._ensure_prepared()
            self._deletions.remove_pending_rows()
            return self._advance_all(stop)

    def carry_out_deletions(self) -> None:
        """Delete what is asked for. Everything acknowledged before that must be filed. Raises as `advance` does."""
        with self._noticing_loss():
            self._own_results.advance()
            self._routed.advance()
            self._deletions.advance()

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Let the next call of `advance` begin with what the database says, if it is another one than before."""
        try:
            yield
        except IndexLost:
            self._prepared = False
            raise

    def _ensure_prepared(self) -> None:
        if not self._prepared:
            self.prepare()
            self._prepared = True

    def _advance_all(self, stop: threading.Event | None) -> int:
        filed = 0
        # A time, by both clocks, and the last segments that it can concern.
        mark: tuple[tuple[datetime, float], dict[str, int]] | None = None
        while stop is None or not stop.is_set():
            began = datetime.now(UTC), time.monotonic()
            receivers = self._segments.receivers()
            mark = mark or (began, {receiver: self._segments.last(receiver) for receiver in receivers})
            more, trouble = False, None
            for receiver in receivers:
                try:
                    found, goes_on = self._filing.advance(self._places.setdefault(receiver, Place(receiver)))
                    filed += found
                    more = more or goes_on
                except IndexLost:
                    raise
                except (Retriable, OSError) as error:
                    trouble = error
            if trouble is not None:
                raise trouble
            if not more:
                self._mark_filed(*began)
                break
            if all(self._places[receiver].segment > last for receiver, last in mark[1].items()):
                self._mark_filed(*mark[0])  # the mark moves even under a load that never ends
                mark = None
        return filed

    def _mark_filed(self, until: datetime, monotonic: float) -> None:
        """Mark what is filed, unless the database was replaced, which nothing else notices while nothing arrives."""
        noted = {place.noted for place in self._places.values() if place.noted is not None}
        if not noted.issubset(read_reached(self._database)):
            raise IndexLost("A journal is not filed up to where it was; the database was replaced")
        journal.mark_filed(self._journals, until, monotonic)
