"""Log lines: a sentence, then `action` and identifiers as key=value. Never patient attributes."""

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
        """Frames and type, but the message only of our own errors: a library's may quote the patient's attributes."""
        kind, error, trace = ei
        message = str(error) if isinstance(error, NodeError) else "(message withheld)"
        return "".join(traceback.format_tb(trace)) + f"{kind.__name__}: {message}"

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        return f"{line} {' '.join(f'{k}={v}' for k, v in fields.items())}" if fields else line


def configure(role: str, level: str = "INFO") -> None:
    """Sends the logs of this process to standard error, where systemd and containers collect them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)-7s {role}: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # These describe datasets, requests and answers in full, patient attributes included.
    for name in ("pynetdicom", "pydicom", "highdicom", "dicomweb_client", "retrying", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # theirs quote names and values of the dataset
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def unexpected(error: BaseException) -> str:
    """The type of an error that nobody foresaw and the last place of ours that it came through, as `TypeError at
    storage/log/header.py:81`. Never its text: a library's may quote the patient's attributes.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGES)]
    place = f" at {Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"


def printable(text: str) -> str:
    """A peer's text for a log line: no control characters, no padding."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())


def fields(action: str, **identifiers: Any) -> dict[str, Any]:
    """The `extra` of a log call: what is being done, and to which study, series, job or delivery."""
    return {"action": action, **{k: v for k, v in identifiers.items() if v is not None}}
