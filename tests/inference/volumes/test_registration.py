"""A known motion is found again; what does not belong together is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.phantoms.limb.random_limb import limb_phantom
from inference.phantoms.signals import Acquisition
from inference.volumes.geometry import Affine, Geometry
from inference.volumes.reading import read_volume
from inference.volumes.registration import Registration, register
from inference.volumes.resampling import resample_to_grid
from inference.volumes.volume import Volume
from storage.blobs import file_blobs

T1W = Acquisition(600.0, 12.0)
T2W_FS = Acquisition(4000.0, 80.0, fat_suppressed=True)


def motion(shift: tuple[float, float, float], degrees: tuple[float, float, float], about: np.ndarray) -> Affine:
    """Return the matrix of turns about x, then y, then z through a point, and a shift; LPS mm."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [n for n in range(3) if n != axis]
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, np.array(shift) + about - turn @ about
    return matrix


def centre(volume: Volume) -> np.ndarray:
    return volume.geometry.to_lps((np.array([volume.geometry.shape]) - 1) / 2)[0]


def errors(found: Registration, truth: Affine, volume: Volume) -> tuple[np.ndarray, float]:
    """Return the error at the centre in voxels along (slice, row, column), and in degrees."""
    at = np.append(centre(volume), 1.0)
    off = np.abs(np.linalg.inv(volume.geometry.affine) @ (found.matrix - truth) @ at)[:3]
    turn = found.matrix[:3, :3] @ truth[:3, :3].T
    return off, float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def limb(acquisition: Acquisition, slices: int, spacing: tuple[float, float], seed: int) -> Volume:
    between, within = spacing
    size = round(180 / within)
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, within], [0, within, 0], [between, 0, 0]]
    affine[:3, 3] = -within * size / 2, -within * size / 2, -between * slices / 2
    grid = Geometry((slices, size, size), affine)
    array = limb_phantom(2).render(acquisition, grid, seed=seed)
    return Volume(array, grid, (), "1", f"1.{seed}", "1.9", "MR")


@pytest.fixture(scope="module")
def head(test_data: Path) -> Volume:
    folder = test_data / "mr" / "siemens_prisma_t1_sag_HFDR"
    return read_volume(file_blobs(sorted(folder.rglob("*.dcm"))))


@pytest.fixture(scope="module")
def t1w() -> Volume:
    return limb(T1W, 24, (5.0, 1.5), 1)


@pytest.mark.parametrize("same_frame", [True, False])
def test_a_head_that_moved_is_found_again(head: Volume, same_frame: bool) -> None:
    """On another grid, with another scale of intensities."""
    truth = motion((6.0, -9.0, 12.0), (4.0, -6.0, 8.0), centre(head))
    grid = Geometry((70, 150, 120), head.geometry.affine @ np.diag([35 / 70, 256 / 150, 256 / 120, 1.0]))
    array = resample_to_grid(head.array, head.geometry.affine, np.linalg.inv(truth) @ grid.affine, grid.shape, order=1)
    frame = head.frame_of_reference_uid if same_frame else "1.2.3"
    moving = replace(head, array=3 * array.astype(np.float32) + 40, geometry=grid, frame_of_reference_uid=frame)
    found = register(moving, head)
    assert found.accepted, found.reason
    assert found.loose == (False, False, False)
    off, degrees = errors(found, truth, head)
    assert off.max() < 0.5
    assert degrees < 0.5
    affine = np.linalg.inv(found.matrix) @ moving.geometry.affine
    back = resample_to_grid(moving.array, affine, head.geometry.affine, head.geometry.shape, order=1)
    seen = back != 0
    assert not seen.all()  # the other image does not reach everywhere
    assert np.corrcoef(back[seen], head.array[seen])[0, 1] > 0.95


def test_two_contrasts_of_a_limb_are_brought_together(t1w: Volume) -> None:
    """The limb moved across its axis between them; along it, nothing but the mass says where they belong."""
    still = limb(T2W_FS, 20, (6.0, 1.2), 2)
    truth = motion((7.0, -5.0, 0.0), (0.0, 0.0, 6.0), centre(t1w))
    moving = replace(still, geometry=Geometry(still.geometry.shape, truth @ still.geometry.affine))
    found = register(moving, t1w)
    assert found.accepted, found.reason
    assert found.loose == (False, False, True)
    off, degrees = errors(found, truth, t1w)
    assert off[1:].max() < 0.5
    assert off[0] < 1.0
    assert degrees < 1.5
    assert np.array_equal(register(moving, t1w).matrix, found.matrix)
    unmoved = register(still, t1w)  # as it was acquired
    assert unmoved.accepted
    assert np.array_equal(unmoved.matrix, np.eye(4))


@pytest.mark.parametrize("pair", ["head on limb", "limb on head", "noise on limb", "limb on noise"])
def test_what_does_not_belong_together_is_refused(head: Volume, t1w: Volume, pair: str) -> None:
    rng = np.random.default_rng(1)
    noise = np.hypot(*rng.normal(0, 100, (2, *t1w.array.shape))).astype(np.float32)
    images = {"head": head, "limb": t1w, "noise": replace(t1w, array=noise)}
    moving, fixed = (images[name] for name in pair.split(" on "))
    found = register(moving, fixed)
    assert not found.accepted
    assert found.reason
