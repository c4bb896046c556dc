"""`python -m inference.training soft_tissue_mass --data FOLDER --out FOLDER`: trains a bundled application anew."""

import argparse
import logging
from pathlib import Path

import torch

from inference.training import soft_tissue_mass
from inference.training.soft_tissue_mass import Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m inference.training", description=__doc__)
    parser.add_argument("application", choices=["soft_tissue_mass"])
    parser.add_argument("--data", type=Path, help="folder of the sarcoma set: STS_NNN/{MR_T1,MR_T1_mask.nii.gz}")
    parser.add_argument("--out", type=Path, required=True, help="where weights.pt and metrics.json go")
    parser.add_argument("--iterations", type=int, default=Settings.iterations)
    parser.add_argument("--minutes", type=float, default=None, help="stop after this long, whatever comes first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default=None, help="folder of an earlier run to go on from")
    parser.add_argument("--phantom-share", type=float, default=Settings.phantom_share)
    parser.add_argument(
        "--recolour", type=float, default=Settings.recolour, help="how often views change in brightness"
    )
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    settings = Settings(
        iterations=arguments.iterations,
        minutes=arguments.minutes,
        seed=arguments.seed,
        start=arguments.start,
        phantom_share=arguments.phantom_share,
        recolour=arguments.recolour,
        learning_rate=arguments.learning_rate,
    )
    soft_tissue_mass.run(arguments.data, arguments.out, settings)


if __name__ == "__main__":
    main()
