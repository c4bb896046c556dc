"""Manifests: what a descriptor declares, how mistakes are told, and which files enter the hash."""

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.contract import manifest
from inference.contract.inputs import BValues
from inference.series.kinds import Kind
from storage.errors import ModelRefused

DESCRIPTOR = """
version = "1"
title = "Something"
[earlier]
maximum = 2
[[inputs]]
name = "t1w"
kind = "T1w"
[[inputs]]
name = "diffusion"
kind = ["ADC", "DWI"]
b_values = { count = 2, highest_at_least = 400 }
prefer = ["same plane as t1w", "many slices"]
volumes = "all"
required = false
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], manifest.Manifest]:
    def loaded(text: str) -> manifest.Manifest:
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "application.toml").write_text(text)
        return manifest.load_manifest("own", "own", None)

    monkeypatch.setattr(manifest, "APPLICATIONS", tmp_path)
    return loaded


def test_a_descriptor_declares_its_inputs(load: Callable[[str], manifest.Manifest]) -> None:
    found = load(DESCRIPTOR)
    t1w, diffusion = found.inputs
    assert (t1w.kind, t1w.required, t1w.volumes) == ((Kind.T1W,), True, "one")
    assert diffusion.kind == (Kind.ADC, Kind.DWI)
    assert diffusion.b_values == BValues(count=2, highest_at_least=400)
    assert found.earlier is not None
    assert (found.earlier.maximum, found.earlier.required) == (2, False)
    assert "earlier" not in found.options
    assert load(DESCRIPTOR.replace("[earlier]\nmaximum = 2", "")).earlier is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"T1w"', '"T1"', "inputs.0.kind = 'T1'; allowed: T1w, .* did you mean 'T1w'"),
        ('"DWI"', '"DW"', "inputs.1.kind.1 = 'DW'; allowed: .* did you mean 'DWI'"),
        ("highest_at", "higest_at", "no key inputs.1.b_values.higest_at_least; .* did you mean 'highest_at_least'"),
        ('"many slices"', '"manyslices"', "inputs.1.prefer.1 = 'manyslices': allowed: .* did you mean 'many slices'"),
        ("plane as t1w", "plane as t2w", "'diffusion' prefers the same plane as 't2w', which is no input before it"),
        ('name = "diffusion"', 'name = "t1w"', "two inputs have the name 't1w'"),
        ('name = "diffusion"', 'name = "t1w@1"', "inputs.1.name = 't1w@1'"),
        ('"all"', '"al"', "inputs.1.volumes = 'al'; allowed: one, all"),
        ("maximum = 2", "maximum = 0", "earlier.maximum = 0"),
        ("maximum = 2", "maximal = 2", "no key earlier.maximal; allowed: maximum, required; did you mean 'maximum'"),
    ],
)
def test_a_mistake_is_named(load: Callable[[str], Any], old: str, new: str, told: str) -> None:
    with pytest.raises(ModelRefused, match=told) as refused:
        load(DESCRIPTOR.replace(old, new))
    assert ";" not in str(refused.value).replace("; allowed", "").replace("; did you", "")  # one mistake is told once


SHIPPED = [name for name in manifest.known_applications() if not manifest.takes_bundle(name)]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Copy an application's folder to where the node then looks for it."""

    def copy(application_id: str) -> Path:
        target = tmp_path / application_id
        shutil.copytree(manifest.APPLICATIONS / application_id, target)
        monkeypatch.setattr(manifest, "APPLICATIONS", tmp_path)
        return target

    return copy


@pytest.mark.parametrize("application_id", SHIPPED)
def test_every_file_that_a_descriptor_names_enters_the_hash(copied: Callable[[str], Path], application_id: str) -> None:
    folder = copied(application_id)
    before = manifest.load_manifest(application_id, "x", None).sha256
    tables = [t for t in tomllib.loads((folder / "application.toml").read_text()).values() if isinstance(t, dict)]
    named = {str(v) for table in tables for v in table.values() if (folder / str(v)).is_file()}
    assert "weights.pt" in named
    assert len(named) > 1
    for name in named:
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b" ")
        assert manifest.load_manifest(application_id, "x", None).sha256 != before, name
        (folder / name).unlink()
        with pytest.raises(ModelRefused, match=f"= '{name}': there is no such file in the folder"):
            manifest.load_manifest(application_id, "x", None)
        (folder / name).write_bytes(kept)
    assert manifest.load_manifest(application_id, "x", None).sha256 == before


def test_an_application_without_further_files_needs_not_list_them(load: Callable[[str], manifest.Manifest]) -> None:
    assert load(DESCRIPTOR).sha256
