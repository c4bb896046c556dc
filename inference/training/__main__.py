"""The command `python -m inference.training APPLICATION --data FOLDER --out FOLDER`, which trains networks.

The command logs its progress. If it is started again with the same --out, it continues where it was interrupted.
"""

import argparse
import logging
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import torch

APPLICATIONS = ("soft_tissue_mass", "mass_classifier", "extremity_sts_sbrt")
"""Folders beside this file. The module `training` of each has a frozen dataclass `Settings` and
`run(data, out, settings, only, drawings)`."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m inference.training", description=__doc__)
    chosen = parser.add_subparsers(dest="application", required=True)
    for name in APPLICATIONS:
        options = chosen.add_parser(name)
        options.add_argument("--data", type=Path, help="folder of patients; without it there are only phantoms")
        options.add_argument("--out", type=Path, required=True, help="where weights, metrics and the model card go")
        options.add_argument("--only", type=int, help="train this member of the ensemble and stop")
        options.add_argument("--pictures", type=Path, help="where outlines on slices of held-out patients go")
        options.add_argument("--threads", type=int, default=1)
        for field in fields(_module(name).Settings):
            options.add_argument(f"--{field.name.replace('_', '-')}", type=_type(field), default=field.default)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    module = _module(arguments.application)
    settings = module.Settings(**{field.name: getattr(arguments, field.name) for field in fields(module.Settings)})
    module.run(arguments.data, arguments.out, settings, arguments.only, arguments.pictures)


def _module(name: str) -> Any:
    return import_module(f"inference.training.{name}.training")


def _type(field: "Field[Any]") -> Any:
    """Return the type of an option, which is `float` for a field of `float | None`."""
    return next((kind for kind in get_args(field.type) if kind is not type(None)), field.type)


if __name__ == "__main__":
    main()
