"""The names of devices."""

import pytest

from inference.engine.devices import resolve_devices
from storage.errors import Permanent


def test_devices() -> None:
    assert resolve_devices("cpu") == ["cpu"]
    assert resolve_devices("auto")
    with pytest.raises(Permanent, match="allowed: auto, cpu"):
        resolve_devices("gpu")
