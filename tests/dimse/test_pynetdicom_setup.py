"""The node starts only with the version of pynetdicom whose internals it knows."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynetdicom
import pytest

from dicom_node.dimse.pynetdicom_setup import PINNED_VERSION, ensure_pinned_version
from dicom_node.errors import ConfigurationError
from dicom_node.read.stores import open_stores
from dicom_node.roles import build_dispatcher, build_receiver, build_scheduler
from dicom_node.settings.loading import load_settings
from dicom_node.settings.model import Settings


def test_the_installed_version_is_the_one_that_is_required() -> None:
    ensure_pinned_version()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert f"pynetdicom=={PINNED_VERSION}" in project["project"]["dependencies"]


@pytest.mark.parametrize(
    "build",
    [
        lambda settings: build_receiver(settings, 0),
        lambda settings: build_scheduler(settings, open_stores(settings.stores, upgrade=True)),
        lambda settings: build_dispatcher(settings, open_stores(settings.stores, upgrade=True)),
    ],
)
def test_no_role_that_opens_associations_starts_with_another_version(
    build: Callable[[Settings], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "data"\n')
    monkeypatch.setattr(pynetdicom, "__version__", "9.9.9")
    with pytest.raises(ConfigurationError) as raised:
        build(load_settings(config))
    assert str(raised.value) == (
        "pynetdicom 9.9.9 is installed, but the node needs version 3.0.4 exactly; run `pip install pynetdicom==3.0.4`"
    )
