"""The loop in which a role does one unit of work after another."""

import logging
import threading
from collections.abc import Callable, Mapping

from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
TROUBLE_SECONDS = 10.0


def serve(
    name: str,
    work: Callable[[], bool],
    stop: threading.Event,
    identifiers: Mapping[str, object] | None = None,
    idle_seconds: float = IDLE_SECONDS,
    trouble_seconds: float | None = TROUBLE_SECONDS,
) -> None:
    """Call `work` until `stop` is set; pause for `idle_seconds` whenever it returns False.

    `work` does one unit of work and returns whether there was any. A Retriable is logged as a postponement, and the
    idle pause follows. Any other exception is logged, and a pause of `trouble_seconds` follows; if `trouble_seconds` is
    None, the exception ends the loop. Log lines begin with `name` ("Delivery is put off"), and `identifiers` are added
    to them.
    """
    more = dict(identifiers or {})
    while not stop.is_set():
        try:
            worked = work()
        except Retriable as error:
            message = "%s is put off and will be tried again in %g s: %s"
            log.warning(message, name, idle_seconds, error, extra=fields("work_postponed", **more))
            worked = False
        except Exception as error:
            if trouble_seconds is None:
                raise
            message = "%s failed unexpectedly and will be tried again in %g s: %s"
            log.error(message, name, trouble_seconds, unexpected(error), extra=fields("work_interrupted", **more))
            stop.wait(trouble_seconds)
            continue
        if not worked:
            stop.wait(idle_seconds)
