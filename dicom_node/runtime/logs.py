"""Log lines: a sentence, then `action` and identifiers as key=value. They never hold patient attributes."""

import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from storage.errors import NodeError

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = tuple(f"{_ROOT / name}/" for name in ("dicom_node", "storage", "inference"))
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name logging calls
        """Format frames and type, and the message only of our own errors: others may quote patient attributes."""
        kind, error, trace = ei
        message = str(error) if isinstance(error, NodeError) else "(message withheld)"
        return "".join(traceback.format_tb(trace)) + f"{kind.__name__}: {message}"

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        return f"{line} {' '.join(f'{k}={v}' for k, v in fields.items())}" if fields else line


def configure(role: str, level: str = "INFO") -> None:
    """Send the logs of this process to standard error, where systemd and containers collect them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)-7s {role}: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # These describe datasets, requests and answers in full, patient attributes included.
    for name in ("pynetdicom", "pydicom", "highdicom", "dicomweb_client", "retrying", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # warnings of libraries quote names and values of the dataset
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def unexpected(error: BaseException) -> str:
    """Return the type of an unexpected error and our last line in its traceback: `TypeError at x/y.py:81`.

    The error's text is left out, because a library's text may quote patient attributes.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGES)]
    place = f" at {Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"


def printable(text: str) -> str:
    """Return a peer's text without control characters and padding, so that it fits a log line."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())


def fields(action: str, **identifiers: Any) -> dict[str, Any]:
    """Return the `extra` of a log call: the outcome, and the identifiers of the study, job, delivery or peer.

    `action` is in snake_case with the past participle last, such as `job_started`.
    """
    return {"action": action, **{k: v for k, v in identifiers.items() if v is not None}}
