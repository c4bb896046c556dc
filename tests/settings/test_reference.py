"""config/node.toml and config/bundle.toml are the references: they know every key, say the true defaults, and load
with or without them."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from dicom_node.deliver.destinations.dimse import DimseSettings
from dicom_node.deliver.destinations.registry import DESTINATION_KINDS
from dicom_node.deliver.destinations.settings import DestinationSettings
from dicom_node.settings import mistakes
from dicom_node.settings.loading import load_settings
from dicom_node.settings.model import Settings, WhenSettings
from inference.contract.bundle import BundleFile
from inference.contract.manifest import load_manifest
from tests.conftest import REPOSITORY

REFERENCE = REPOSITORY / "config" / "node.toml"
BUNDLE = REPOSITORY / "config" / "bundle.toml"
CONTAINER = REPOSITORY / "config" / "container" / "node.toml"
# Keys whose example is not the default: there is none, or it depends on where the file lies.
EXAMPLES = {"node.data_dir", "node.database_url", "node.time_zone", "completion.released_seconds", "completion.source"}


def uncommented(path: Path = REFERENCE) -> str:
    return re.sub(r"^#(?=[a-z_.]+ = |\[[\[a-z])", "", path.read_text(), flags=re.MULTILINE)


def sections() -> Iterator[tuple[str, type[BaseModel], bool]]:
    """(name, model, whether it is a list) of every section but the destinations, which are of several kinds."""
    for name, field in Settings.model_fields.items():
        if name == "destinations":
            continue
        inner = [a for a in get_args(field.annotation) if isinstance(a, type)]
        model = inner[0] if inner else field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        yield name, model, bool(inner)


@pytest.fixture(autouse=True)
def known_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference must be right whichever applications a build carries."""
    monkeypatch.setattr(mistakes, "known_applications", lambda: ("segmentation", "soft_tissue_mass"))


def test_it_loads_as_it_is() -> None:
    loaded = load_settings(REFERENCE)
    assert loaded.node.data_dir == REPOSITORY / "data"
    assert loaded.applications == ()


def test_it_loads_with_everything_uncommented(tmp_path: Path) -> None:
    path = tmp_path / "config" / "node.toml"
    path.parent.mkdir()
    path.write_text(uncommented())
    loaded = load_settings(path)
    assert [a.label for a in loaded.applications] == ["soft_tissue_mass", "brain"]
    assert [p.ae_title for p in loaded.peers] == ["SCANNER1"]
    assert [d.kind for d in loaded.destinations] == ["dimse", "dicomweb", "dicomweb", "folder"]


def test_it_has_every_key() -> None:
    raw = tomllib.loads(uncommented())
    assert set(raw) == set(Settings.model_fields)
    for name, model, is_list in sections():
        entries: list[dict[str, Any]] = raw[name] if is_list else [raw[name]]
        assert {key for entry in entries for key in entry} == set(model.model_fields), name
    assert set(raw["applications"][0]["when"]) == set(WhenSettings.model_fields)


def test_it_has_every_key_of_every_kind_of_destination() -> None:
    entries = tomllib.loads(uncommented())["destinations"]
    common = set(DestinationSettings.model_fields) - {"name"}
    for kind, model in DESTINATION_KINDS.items():
        keys = {key for entry in entries if entry["kind"] == kind for key in entry}
        assert keys | common == set(model.model_fields), kind
    assert common <= set(entries[0])
    for key in common:
        value = tuple(entries[0][key]) if isinstance(entries[0][key], list) else entries[0][key]
        assert value == DestinationSettings.model_fields[key].default, key


def test_what_it_calls_defaults_are_the_defaults() -> None:
    raw = tomllib.loads(uncommented())
    for name, model, is_list in sections():
        if is_list:
            continue
        for key, field in model.model_fields.items():
            if f"{name}.{key}" not in EXAMPLES and field.default is not PydanticUndefined:
                assert raw[name][key] == field.default, f"{name}.{key}"


def test_the_containers_configuration_loads() -> None:
    loaded = load_settings(CONTAINER)
    assert loaded.node.data_dir == Path("/var/lib/dicom-node")
    assert [d.host for d in loaded.destinations if isinstance(d, DimseSettings)] == ["pacs"]


@pytest.mark.parametrize("text", [BUNDLE.read_text(), uncommented(BUNDLE)])
def test_the_bundles_reference_is_a_bundle(tmp_path: Path, text: str) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("bundle.toml", "model.ts", "configs/inference.json"):
        (tmp_path / name).write_text(text)
    manifest = load_manifest("segmentation", "own", tmp_path)
    assert (manifest.version, manifest.title) == ("1.0", "Brain structures")


def differing(schema: Any, table: dict[str, Any], key: str = "") -> Iterator[str]:
    """Keys that the reference lacks, or shows with another value than the default."""
    for name, field in schema.__pydantic_fields__.items():
        place, value = f"{key}{name}", table.get(name, PydanticUndefined)
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        nested = [a for a in inner if hasattr(a, "__pydantic_fields__")]
        if value is PydanticUndefined:
            yield f"{place} is missing"
        elif nested:
            yield from differing(nested[0], value[0] if isinstance(value, list) else value, f"{place}.")
        elif field.default not in (None, (), PydanticUndefined):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            if value != default:
                yield f"{place} = {value!r}, not {default!r}"


def test_the_bundles_reference_has_every_key_and_the_true_defaults() -> None:
    assert list(differing(BundleFile, tomllib.loads(uncommented(BUNDLE)))) == []
