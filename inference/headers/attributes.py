"""Values of attributes as headers really hold them: absent, empty, one or several."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from storage.errors import InputRefused


def values(value: Any) -> list[Any]:
    """Return the values of an attribute as a list, which is empty if the attribute is absent or empty."""
    if value is None or value == "":
        return []
    if isinstance(value, str | bytes | int | float):
        return [value]
    try:
        return list(value)
    except TypeError:
        return [value]


def matches(text: str, pattern: str) -> bool:
    """Return True if a text matches a pattern with `*` and `?`. Case and the spaces around both do not matter."""
    escaped = pattern.strip().lower().replace("[", "[[]")  # fnmatch would begin a class of characters
    return fnmatchcase(text.strip().lower(), escaped)


def vector(ds: Dataset | Mapping[str, Any], keyword: str, length: int, where: str) -> NDArray[np.float64]:
    """Return the values of an attribute as an array (`length`,).

    Raises InputRefused unless the attribute has exactly `length` values and all are finite. The message begins with
    `where`, which names the instance or frame.
    """
    try:
        found = [float(v) for v in values(ds.get(keyword))]
    except (TypeError, ValueError):
        found = []
    if len(found) != length or not all(map(isfinite, found)):
        raise InputRefused(f"{where}: {keyword} is missing or is not {length} numbers")
    return np.array(found)
