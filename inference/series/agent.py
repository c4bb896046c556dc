"""Contrast agent: the evidence that a series had one, and the time since its injection."""

import re
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from pydicom.dataset import Dataset

from inference.series.image_facts import ImageFacts

AGENT_BY_NAME = re.compile(
    r"post.?(gd|gad|contrast|km)|(?<![a-z0-9])(\+ ?(c|gd|km)|c\+|gd|gad|gadolinium)(?![a-z0-9+])"
    r"|(arterial|venous).?phase|portal.?ven|hepatobil"
)
NO_AGENT_BY_NAME = re.compile(r"(?<![a-z])(pre|native|non|w/?o|without)(?![a-z])")


class AgentEvidence(Enum):
    """Evidence that a series had contrast agent."""

    NONE = 0  # nothing tells of one
    HEADER = 1  # attributes of the contrast agent
    NAME = 2  # the name of the series alone: technologists often leave the attributes empty


def agent_evidence(facts: Sequence[ImageFacts]) -> AgentEvidence:
    """Return the evidence that a series had contrast agent."""
    if any(f.agent for f in facts):
        return AgentEvidence.HEADER
    name = facts[0].description
    named = AGENT_BY_NAME.search(name) is not None and NO_AGENT_BY_NAME.search(name) is None
    return AgentEvidence.NAME if named else AgentEvidence.NONE


def seconds_after_injection(ds: Dataset) -> float | None:
    """Return the time from ContrastBolusStartTime to the acquisition of this image.

    It is None unless the header states both times.
    """
    moments = [_time(ds.get(keyword)) for keyword in ("ContrastBolusStartTime", "AcquisitionTime")]
    if moments[0] is None or moments[1] is None:
        return None
    return (moments[1] - moments[0]).total_seconds()


def _time(value: Any) -> datetime | None:
    """Parse a PS3.5 TM, and return it on an arbitrary day."""
    digits = str(value or "").strip().split(".")[0].replace(":", "")
    try:
        return datetime.strptime(digits.ljust(6, "0"), "%H%M%S") if digits else None
    except ValueError:
        return None
