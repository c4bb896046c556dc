"""The rule of completion: how long a study waits, as configured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CompletionRule:
    """Waiting times in seconds, `settled` <= `released` <= `quiet`.

    `settled` follows the last instance if MPPS, the source PACS or declared counts say that everything is here, and
    every association that fed the study was released. `released` follows without such evidence.
    `quiet` follows while an association is still open, if something is missing, or after an association was aborted
    (doubled, unless one of the three says that everything is here).
    `maximum_age` counts from the first instance of the revision, and ends the waiting for a study whose instances never
    stop coming. `source` names the PACS that is asked for its count, if one is configured.
    """

    quiet: float
    released: float
    settled: float
    maximum_age: float
    source: str | None = None
