"""What an application declares about itself: `application.toml`, or a site's `bundle.toml`. Loads no torch."""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from inference.series import Kind
from storage.errors import ModelRefused

APPLICATIONS = Path(__file__).parent / "applications"
DESCRIPTOR = "application.toml"
BUNDLE_DESCRIPTOR = "bundle.toml"


@dataclass(frozen=True)
class InputRule:
    """What a series must be to feed one input of an application. None and empty mean: anything."""

    name: str
    modality: str = "MR"
    kind: str | None = None  # a value of inference.series.Kind: "T1w", "T2w", "DWI", "ADC", ...
    dimension: str | None = None  # "2D" or "3D"
    minimum_slices: int = 3
    contrast: bool | None = None
    fat_suppressed: bool | None = None
    body_parts: tuple[str, ...] = ()  # BodyPartExamined (PS3.16 annex L); a series that names none is not refused
    required: bool = True


@dataclass(frozen=True)
class Manifest:
    """`folder` holds the weights and whatever else the application reads; `options` is the rest of the descriptor."""

    id: str  # the application's folder in inference/applications
    name: str  # as configured; the same application may run under several names with several bundles
    version: str
    title: str
    inputs: tuple[InputRule, ...]
    folder: Path
    options: dict[str, Any]
    sha256: str  # of the descriptor and every weights file it names: another hash means other results


def known_applications() -> list[str]:
    """The ids of the applications that are installed."""
    return sorted(path.parent.name for path in APPLICATIONS.glob(f"*/{DESCRIPTOR}"))


def load_manifest(application_id: str, name: str, bundle: Path | None) -> Manifest:
    """The manifest of one configured application.

    With `bundle`, its `bundle.toml` declares title, version, the input and the model, instead of the application's
    own descriptor. Raises ModelRefused naming the file, the key and the way out.
    """
    own = APPLICATIONS / application_id
    path = own / DESCRIPTOR if bundle is None else bundle / BUNDLE_DESCRIPTOR
    if bundle is not None and not bundle.is_dir():
        raise ModelRefused(f"the model folder {bundle} does not exist; correct `bundle` of application {name!r}")
    text = _read(path)
    options = _parse(path, text)
    rules = options.pop("inputs", None) or [{"name": "image", **options.pop("input", {})}]
    manifest = Manifest(
        id=application_id,
        name=name,
        version=str(_required(path, options, "version")),
        title=str(_required(path, options, "title")),
        inputs=tuple(_rule(path, rule) for rule in rules),
        folder=path.parent,
        options=options,
        sha256=_digest(path, text, options),
    )
    return manifest


def weights_path(manifest: Manifest) -> Path:
    """The file of weights that the descriptor's `[model] weights` names."""
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


def _digest(path: Path, text: bytes, options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(text)
    model = options.get("model")
    if not isinstance(model, dict) or "weights" not in model:
        raise ModelRefused(f"{path}: [model] weights is missing; name the file that holds the model")
    for key in ("weights", "network"):
        if key in model:
            file = path.parent / str(model[key])
            if not file.is_file():
                raise ModelRefused(f"{path}: [model] {key} = {model[key]!r}: there is no such file in the folder")
            digest.update(file_sha256(file).encode())
    return digest.hexdigest()


def _required(path: Path, options: dict[str, Any], key: str) -> Any:
    if key not in options:
        raise ModelRefused(f"{path}: the key {key!r} is missing")
    return options.pop(key)


def _rule(path: Path, raw: Any) -> InputRule:
    names = [field.name for field in fields(InputRule)]
    for key in raw:
        if key not in names:
            close = get_close_matches(key, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ModelRefused(f"{path}: [input] has no key {key!r}; allowed: {', '.join(names)}{hint}")
    kinds = [str(kind) for kind in Kind]
    if raw.get("kind") not in (None, *kinds):
        raise ModelRefused(f"{path}: [input] kind = {raw['kind']!r}; allowed: {', '.join(kinds)}")
    if raw.get("dimension") not in (None, "2D", "3D"):
        raise ModelRefused(f"{path}: [input] dimension = {raw['dimension']!r}; allowed: 2D, 3D")
    return InputRule(**{**raw, "body_parts": tuple(raw.get("body_parts", ()))})
