"""The problems of a node as the operator sees them, and what a person can do about each."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby, pairwise

from dicom_node.read.stores import Stores
from storage.errors import NodeError
from storage.records.problems import Problem, ProblemKind, ProblemLimits, SendingDay

HISTORY = timedelta(days=28)  # of a peer, from which its habits are read
LEAST_SENDING_DAYS = 8  # in that time, or a peer has no habits yet
LEAST_SILENCE = timedelta(days=1)
LONGER_THAN_EVER = 1.5  # times the longest pause so far

ADVICE = {
    ProblemKind.JOB_FAILED: "mend the cause, then `dicom-node retry --job N`",
    ProblemKind.DELIVERY_FAILED: "mend the cause, then `dicom-node retry --delivery N`",
    ProblemKind.NOT_COMMITTED: "look at `dicom-node confirmations`; a destination that never confirms is configured "
    'with confirm = "none"',
    ProblemKind.REPORT_FAILED: "see that the peer has a port in [[peers]], then `dicom-node retry --commitment N`",
    ProblemKind.NEVER_COMPLETED: "`dicom-node explain UID` says what the study waits for",
    ProblemKind.PEER_SILENT: "see whether the peer is switched off, or sends elsewhere",
    ProblemKind.PATIENTS_MIXED: "find out whose images these are, correct them at the PACS, and send the study again",
    ProblemKind.CORRECTION_INCOMPLETE: "send the whole corrected study again",
    ProblemKind.QUARANTINED: "compare the image in quarantine with the filed one; the sender knows which is right",
    ProblemKind.UNFILED: "the bytes stay where they are; send the instance again once the cause is mended",
    ProblemKind.DAMAGED: "see to the disk, and restore this file of the folder 'journal' from a backup, or send the "
    "study again; a start looks at it again, and so does each day",
    ProblemKind.REFUSED: "the log says why; the sender has to send again",
    ProblemKind.ROUTING_FAILED: "look at the log; then route the study again with `dicom-node retry --study`",
    ProblemKind.MACHINE_TROUBLE: "look at the disk and the log; the work is tried again by itself",
    ProblemKind.DESTINATION_UNREACHABLE: "`dicom-node echo` asks it again; what waits for it goes by itself",
    ProblemKind.UNEXPECTED_DUPLICATE: "find out who else sent an object with this UID",
    ProblemKind.COERCED: "see in the PACS which attributes it changes, and why",
    ProblemKind.ELEMENTS_DISCARDED: "see whether the PACS still shows the result as it should",
    ProblemKind.CLOCK_STEPPED: "see that the time is synchronised on every machine",
}


def list_problems(stores: Stores, limits: ProblemLimits, peers: Collection[str], now: datetime) -> Sequence[Problem]:
    """Return all problems, the oldest first, with their acknowledgements.

    `peers` are the AE titles of the configured peers. Without any, every peer that has sent counts.
    """
    days = stores.problems.sending_days(now - HISTORY)
    found = [*stores.problems.list(limits), *silent_peers(days, peers, now)]
    return stores.problems.with_acknowledgements(sorted(found, key=lambda problem: problem.since))


def silent_peers(days: Sequence[SendingDay], peers: Collection[str], now: datetime) -> Iterator[Problem]:
    """Yield a problem for each peer that has been silent for much longer than it ever was in the last weeks.

    `days` are ordered by peer and time. A scanner that rests at weekends is therefore not silent on a Sunday.
    """
    for peer, group in groupby(days, key=lambda day: day.calling_ae_title):
        of_peer = list(group)
        if len(of_peer) < LEAST_SENDING_DAYS or (peers and peer not in peers):
            continue
        last = of_peer[-1].last_at
        longest = max(later.first_at - earlier.last_at for earlier, later in pairwise(of_peer))
        if now - last > max(LEAST_SILENCE, longest * LONGER_THAN_EVER):
            text = f"{peer} has sent nothing since {last:%Y-%m-%d %H:%M} UTC, longer than ever in the last weeks"
            yield Problem(ProblemKind.PEER_SILENT, peer, text, last, last)


def find_problem(problems: Sequence[Problem], name: str) -> Problem:
    """Return the problem with this name. Raises NodeError if there is none."""
    found = next((problem for problem in problems if problem.name == name), None)
    if found is None:
        raise NodeError(f"There is no problem {name!r}; `dicom-node problems --all` lists those there are")
    return found
