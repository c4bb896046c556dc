"""Small T1w studies with one bright ball whose place and size are known."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_node.demo.simulator.mr_series import Stack
from dicom_node.demo.simulator.phantom_study import PROTOCOLS, ImagedLimb, PhantomStudy, write_phantom_study
from inference.volumes.geometry import Affine

SHAPE, SPACING = (20, 64, 72), (4.0, 2.0, 2.0)
CENTRE, RADIUS = np.array([22.0, -12.0, 8.0]), 17.0  # LPS mm


def _affine() -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, SPACING[2]], [0, SPACING[1], 0], [SPACING[0], 0, 0]]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def write_ball_study(folder: Path, *, oblique: bool = False, seed: int = 1) -> PhantomStudy:
    """A dim cylinder (400) with a bright ball (900) off its centre, in one axial or doubly oblique T1w series."""
    stack, ball = _ball(RADIUS)
    return write_phantom_study(folder, ImagedLimb({"t1w": (stack,)}, ball), seed, oblique=oblique)


def write_ball_sides(folder: Path, radii: Mapping[str, float]) -> PhantomStudy:
    """A T1w series for each side ("L", "R", or "" for none), each with a ball of another radius (mm)."""
    names = {side: "t1w" if not n else f"t1w_{n}" for n, side in enumerate(radii)}
    protocols = {
        name: replace(
            PROTOCOLS["t1w"], description=f"T1 TSE {side or 'tra'}", attributes={"Laterality": side}
        )
        for side, name in names.items()
    }  # fmt: skip
    images = {name: (_ball(radii[side])[0],) for side, name in names.items()}
    return write_phantom_study(folder, ImagedLimb(images, _ball(RADIUS)[1], protocols), seed=1)


def _ball(radius: float) -> tuple[Stack, NDArray[np.bool_]]:
    affine = _affine()
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1).reshape(-1, 3)
    points = (indices @ affine[:3, :3].T + affine[:3, 3]).reshape(*SHAPE, 3)
    ball = np.linalg.norm(points - CENTRE, axis=-1) < radius
    body = np.linalg.norm(points[..., :2], axis=-1) < 60
    return Stack(np.where(ball, 900, np.where(body, 400, 0)).astype(np.float32), affine), ball


def write_two_limbs(folder: Path, right: ImagedLimb, left: ImagedLimb) -> PhantomStudy:
    """A study of both legs: the series of the left one, named "left_...", lie 200 mm beside those of the right one.

    The study's `mask` is that of the right leg.
    """
    aside = np.eye(4)
    aside[0, 3] = 200.0  # LPS: to the patient's left
    images: dict[str, tuple[Stack, ...]] = {}
    protocols = {}
    for prefix, limb, side, place in (("", right, "R", np.eye(4)), ("left_", left, "L", aside)):
        for name, stacks in limb.images.items():
            images[f"{prefix}{name}"] = tuple(replace(stack, affine=place @ stack.affine) for stack in stacks)
            attributes = {**limb.protocols[name].attributes, "Laterality": side}
            protocols[f"{prefix}{name}"] = replace(limb.protocols[name], attributes=attributes)
    return write_phantom_study(folder, replace(right, images=images, protocols=protocols), seed=1)
