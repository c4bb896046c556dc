"""The manifest: the declaration of an application in `application.toml` or `bundle.toml`. It loads no torch."""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from inference.contract.bundle import Bundle, BundleFile
from inference.contract.descriptor import nearest, validated
from inference.contract.inputs import SAME_PLANE_AS, EarlierRule, InputRule, Laterality
from storage.errors import ModelRefused

APPLICATIONS = Path(__file__).parents[1] / "applications"
DESCRIPTOR = "application.toml"
BUNDLE_DESCRIPTOR = "bundle.toml"

FileKey = tuple[str, str]
"""Table and key of a descriptor whose value names a file of its folder."""

MODEL_FILES: tuple[FileKey, ...] = (("model", "weights"), ("model", "network"))


@dataclass(frozen=True)
class NamedFile:
    """A file that a descriptor names: the key, as "model.weights", and its name in the folder."""

    key: str
    name: str


class _ApplicationFile(BaseModel):
    """The keys that every `application.toml` has; all other keys are the application's own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    version: str = Field(min_length=1)
    title: str = Field(min_length=1)
    inputs: tuple[InputRule, ...] = Field(min_length=1)
    earlier: EarlierRule | None = None
    laterality: Laterality | None = None
    options: dict[str, bool] = Field(default_factory=dict)  # what a site may switch, with the defaults

    @field_validator("inputs")
    @classmethod
    def _names(cls, rules: tuple[InputRule, ...]) -> tuple[InputRule, ...]:
        """Check the names. An input that another one names in `prefer` must come before it."""
        names: list[str] = []
        for rule in rules:
            if rule.name in names:
                raise ValueError(f"two inputs have the name {rule.name!r}")
            others = [p.removeprefix(SAME_PLANE_AS) for p in rule.prefer if p.startswith(SAME_PLANE_AS)]
            if unknown := [name for name in others if name not in names]:
                raise ValueError(
                    f"input {rule.name!r} prefers the same plane as {unknown[0]!r}, which is no input before it"
                )
            names.append(rule.name)
        return rules


@dataclass(frozen=True)
class Manifest:
    """The declaration of one configured application.

    `folder` holds the weights and whatever else the application reads. `options` is the rest of the descriptor.
    """

    id: str  # the application's folder in inference/applications
    name: str  # as configured; one application may run under several names with several bundles
    version: str
    title: str
    inputs: tuple[InputRule, ...]
    folder: Path
    options: dict[str, Any]
    sha256: str  # of the descriptor, the files that it names and the switches: another hash means other results
    earlier: EarlierRule | None = None  # None if the application looks at one study alone
    switches: Mapping[str, bool] = field(default_factory=dict)  # `[options]` of the descriptor, as the site has them
    each_side: bool = False  # runs once for each side of the body that a study shows


def known_applications() -> list[str]:
    """Return the ids of the applications that are installed."""
    return sorted(path.parent.name for path in APPLICATIONS.glob(f"*/{DESCRIPTOR}"))


def takes_bundle(application_id: str) -> bool:
    """Return True if the application has no model itself and runs a site's own model."""
    path = APPLICATIONS / application_id / DESCRIPTOR
    return "model" not in _parse(path, _read(path))


def load_manifest(
    application_id: str, name: str, bundle: Path | None, options: Mapping[str, bool] = MappingProxyType({})
) -> Manifest:
    """Load the manifest of one configured application.

    With `bundle`, its `bundle.toml` declares title, version, the input and the model, instead of the application's own
    descriptor. `options` are the switches that the site sets; the descriptor must know them. Raises ModelRefused,
    naming the file, every mistake in it, and what to do.
    """
    path = APPLICATIONS / application_id / DESCRIPTOR if bundle is None else bundle / BUNDLE_DESCRIPTOR
    if bundle is not None and not bundle.is_dir():
        raise ModelRefused(f"the model folder {bundle} does not exist; correct `bundle` of application {name!r}")
    text = _read(path)
    raw = _parse(path, text)
    described: _ApplicationFile | BundleFile | None
    described, mistakes = validated(_ApplicationFile, raw) if bundle is None else validated(BundleFile, raw)
    files = _named_files(application_id, raw)
    mistakes += _missing_files(path.parent, files)
    known = described.options if isinstance(described, _ApplicationFile) else {}
    mistakes += [
        f"it has no option {key!r}, which application {name!r} is configured with{nearest(key, list(known))}"
        for key in options
        if key not in known
    ]
    if described is None or mistakes:
        raise ModelRefused(f"{path}: {'; '.join(mistakes)}")
    own = Bundle.model_fields if bundle is not None else raw.keys() - _ApplicationFile.model_fields
    return Manifest(
        id=application_id,
        name=name,
        version=described.version,
        title=described.title,
        inputs=_inputs(described),
        folder=path.parent,
        options={key: value for key, value in raw.items() if key in own},
        sha256=_digest(path.parent, text, files, options),
        earlier=described.earlier if isinstance(described, _ApplicationFile) else None,
        switches=known | dict(options),
        each_side=described.laterality == "each",
    )


def _inputs(described: _ApplicationFile | BundleFile) -> tuple[InputRule, ...]:
    if isinstance(described, BundleFile):
        return (InputRule("image", **vars(described.input)),)
    return described.inputs


def weights_path(manifest: Manifest) -> Path:
    """Return the file of weights that `[model] weights` of the descriptor names."""
    return manifest.folder / str(manifest.options["model"]["weights"])


def weights_sha256(manifest: Manifest) -> str:
    return file_sha256(weights_path(manifest))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelRefused(
            f"{path} cannot be read ({error.strerror}); the model folder needs this file, see the README, "
            '"Bring your own model"'
        ) from None


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelRefused(f"{path} is not valid TOML: {error}") from None


def _additional_files(application_id: str) -> tuple[FileKey, ...]:
    """Return `FILES` of `inference.applications.<id>.files`; an application without that module reads none."""
    module_name = f"inference.applications.{application_id}.files"
    try:
        files: tuple[FileKey, ...] = import_module(module_name).FILES
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        return ()
    return files


def _named_files(application_id: str, raw: Mapping[str, Any]) -> list[NamedFile]:
    """List the files that the descriptor names: those of the model, then those that the application adds."""
    found = []
    for table, key in (*MODEL_FILES, *_additional_files(application_id)):
        values = raw.get(table)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            found.append(NamedFile(f"{table}.{key}", values[key]))
    return found


def _missing_files(folder: Path, files: Sequence[NamedFile]) -> list[str]:
    return [
        f"{file.key} = {file.name!r}: there is no such file in the folder"
        for file in files
        if not (folder / file.name).is_file()
    ]


def _digest(folder: Path, text: bytes, files: Sequence[NamedFile], options: Mapping[str, bool]) -> str:
    digest = hashlib.sha256(text)
    for key, value in sorted(options.items()):
        digest.update(f"{key} {value}".encode())
    for file in files:
        digest.update(file_sha256(folder / file.name).encode())
    return digest.hexdigest()
