"""The network that the configuration of a MONAI bundle declares, built without running code from the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.networks.nets as nets
from torch import nn

from storage.errors import ModelRefused

KEYS = ("network_def", "network")


def declared_network(path: Path) -> Callable[[], nn.Module]:
    """Return a constructor of the `network_def` in a JSON configuration (MONAI bundle specification).

    `_target_` must name a class of `monai.networks.nets`, and the arguments must be plain values, because a
    configuration could call any Python otherwise. Raises ModelRefused.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} cannot be read as JSON ({type(error).__name__})") from None
    definition = next((config[key] for key in KEYS if isinstance(config, dict) and key in config), None)
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise ModelRefused(f"{path} declares no network: one of {', '.join(KEYS)} with a _target_ is needed")
    name = str(definition["_target_"]).removeprefix("monai.networks.nets.")
    network = getattr(nets, name, None) if name.isidentifier() else None
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise ModelRefused(
            f"{path}: _target_ {definition['_target_']!r} is no network of monai.networks.nets; export the model as "
            "TorchScript instead"
        )
    arguments = {key: value for key, value in definition.items() if not key.startswith("_")}
    if _holds_expression(arguments):
        raise ModelRefused(f"{path}: network_def holds an expression ($, @, %); write plain values instead")
    return lambda: network(**arguments)


def _holds_expression(value: Any) -> bool:
    if isinstance(value, str):
        return value[:1] in ("$", "@", "%")
    if isinstance(value, dict):
        return "_target_" in value or any(_holds_expression(v) for v in value.values())
    return isinstance(value, list) and any(_holds_expression(v) for v in value)
