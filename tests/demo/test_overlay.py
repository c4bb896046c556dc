"""The picture of a result: upright in radiological convention, however the images were acquired."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.demo.overlay import LEGEND_ROW, PANEL, upright, write_overlay
from dicom_node.demo.simulator.mr_series import Stack
from dicom_node.demo.simulator.phantom_study import ImagedLimb, write_phantom_study
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.seg import build_seg
from inference.contract.findings import Algorithm, Code, Findings, Segment
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs

BALL = np.array([24.0, -18.0, 30.0])  # LPS mm: left, front, head
SIZES = np.array([96.0, 100.0, 120.0])  # mm, of the image along x, y, z


def acquisition(axes: tuple[str, str, str]) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The affine and shape of an image whose slice, row and column axes point as the letters of LPS or RAI say."""
    affine, shape = np.eye(4), []
    for i, (letter, spacing) in enumerate(zip(axes, (4.0, 2.0, 2.0), strict=True)):
        axis = "LPSRAI".index(letter)
        affine[:3, i] = np.eye(3)[axis % 3] * (spacing if axis < 3 else -spacing)
        shape.append(int(SIZES[axis % 3] / spacing))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, (shape[0], shape[1], shape[2])


@pytest.mark.parametrize("axes", ["SPL", "RIP", "LIP", "AIL", "PIR"])
def test_every_panel_is_upright(tmp_path: Path, axes: tuple[str, str, str]) -> None:
    """Axial, sagittal (from both sides) and coronal (likewise) acquisitions of the same patient."""
    affine, shape = acquisition(axes)
    points = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    ball = (np.linalg.norm(points - BALL, axis=1) < 12).reshape(shape)
    limb = ImagedLimb({"t1w": (Stack((300 + 500 * ball).astype(np.float32), affine),)}, ball)
    paths = write_phantom_study(tmp_path / "study", limb, 1).series["t1w"].paths
    volume = read_volume(file_blobs(paths))
    read = np.linalg.norm(volume.geometry.to_lps(np.indices(volume.array.shape).reshape(3, -1).T * 1.0) - BALL, axis=1)
    segment = Segment(
        "Ball", (read < 12).reshape(volume.array.shape), Code("49755003", "SCT", "Abnormal"),
        Code("4147007", "SCT", "Mass"), (220, 40, 40), "Ball", "2.25.1",
    )  # fmt: skip
    algorithm = Algorithm("a", "1", "m", "ab" * 32, "none")
    findings = Findings(volume, (volume,), (segment,), algorithm, "Test", datetime.now(UTC))
    picture = write_overlay(tmp_path / "o.png", build_seg(findings, ObjectContext("N", "seed")), paths)

    pixels = np.asarray(Image.open(picture)).astype(int)
    coloured = (pixels.max(axis=2) - pixels.min(axis=2)) > 40
    lower = coloured[LEGEND_ROW + PANEL : LEGEND_ROW + 2 * PANEL]
    scale = PANEL / np.array([SIZES[[0, 1]].max(), SIZES[[0, 2]].max(), SIZES[[1, 2]].max()])
    for n, (right, up) in enumerate(((24, 18), (24, 30), (-18, 30))):  # mm off the middle of the panel
        rows, columns = np.nonzero(lower[:, n * PANEL : (n + 1) * PANEL])
        assert (columns.mean() - PANEL / 2) / scale[n] == pytest.approx(right, abs=3)
        assert (PANEL / 2 - rows.mean()) / scale[n] == pytest.approx(up, abs=3)


def test_an_oblique_image_is_turned_to_the_nearest_axes() -> None:
    a = np.deg2rad(40)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, -1]])
    turn = upright(affine)
    assert (turn.order, turn.flipped) == ((2, 1, 0), (0,))
