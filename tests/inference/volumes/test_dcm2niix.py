"""dcm2niix as an oracle: on every real series it finds the same volumes, with the same voxels in the same places.

`DIFFERENT` and `KNOWN_WRONG` say where it does not, what differs and why; what they say must remain so. Signals are
compared as the Scale Slope of Philips gives them, which dcm2niix writes by default, and what has a unit as the scanner
shows it, which dcm2niix writes with `-p n`.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from inference.volumes.reading import read_volumes
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from storage.errors import InputRefused

LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MILLIMETRES = 1e-3  # between voxel centres
RELATIVE = 1e-5  # of the largest value: single precision
ALIKE = 1e-3  # of the largest value: the same volume

Image = tuple[NDArray[Any], NDArray[np.float64]]  # [i, j, k], and the affine of its indices to LPS mm

SERIES = (
    "canon_galan_dti_enhanced_oblique",
    "ge_b0_map_hz",
    "ge_ct_head_varying_spacing",
    "ge_hdxt_prostate_adc",
    "ge_mr750_dynamic_10phases",
    "nema_wg04_mr_transfer_syntaxes",
    "philips_achieva_phantom_enhanced",
    "philips_elition_fieldmap_classic_2echo_magphase",
    "philips_elition_fieldmap_enhanced",
    "philips_elition_mprage_classic",
    "philips_elition_rawdata_nonimage",
    "philips_enhanced_fe_epi",
    "philips_knee_rwvm/t1w_coronal",
    "philips_knee_rwvm/t2w_sagittal",
    "philips_pcasl_3d",
    "prostatex_0000_study/3_t2_tse_sag",
    "prostatex_0000_study/4_t2_tse_tra",
    "prostatex_0000_study/5_t2_tse_cor",
    "prostatex_0000_study/6_ep2d_diff_tra_DYNDIST",
    "prostatex_0000_study/7_ep2d_diff_tra_DYNDIST_ADC",
    "prostatex_0000_study/8_ep2d_diff_tra_DYNDISTCALC_BVAL",
    "prostatex_0000_study/9_tfl_3d_PD_ref_tra_1_5x1_5_t3",
    "siemens_enhanced_no_shared_groups",
    "siemens_prisma_epi_mosaic",
    "siemens_prisma_t1_sag_HFDR",
    "siemens_xa30_study/11_DWI_dir80_PA",
    "siemens_xa30_study/12_DWI_dir80_PA",
    "siemens_xa30_study/14_DWI_dir80_PA",
    "siemens_xa30_study/16_DWI_dir80_PA",
    "siemens_xa30_study/27_asl_2d_tra",
    "siemens_xa30_study/28_asl_2d_tra",
    "siemens_xa30_study/5_anat-T1w_acq-tfl",
    "siemens_xa30_study/8_gre_field_mapping",
    "siemens_xa30_study/99_Phoenix_Document",
    "siemens_xa30_study/9_gre_field_mapping",
    "small/ge_dti_001",
    "small/generic_anatomical_002_non_isotropic",
    "small/generic_compressed_001",
    "small/generic_compressed_jpeg_001",
    "small/generic_compressed_jpegls_001",
    "small/generic_compressed_rle_001",
    "small/generic_rgb_001",
    "small/hitachi_anatomical_001",
    "small/ir_gre_no_sop_class",
    "small/philips_dti_001",
    "small/philips_enhanced_dti_001",
    "uih_umr770_dti_vframe",
)

REFUSED = "volumes?, and the node refuses: "
ALONG_THE_NORMAL = (
    "dcm2niix steps along the normal of the image, the node from the first position to the last, which stays within "
    "1e-3 mm of every position in the headers"
)
COLOUR = "colours are no measured signal"

# series -> what differs, and why
DIFFERENT = {
    "ge_hdxt_prostate_adc": ("0.002 mm off", ALONG_THE_NORMAL),
    "philips_elition_mprage_classic": ("0.001 mm off", ALONG_THE_NORMAL),
    "nema_wg04_mr_transfer_syntaxes": (
        f"6 {REFUSED}its images differ in orientation.*",
        "two series of one slice, each in eight transfer syntaxes: dcm2niix makes a file of every slice it can decode",
    ),
    "siemens_xa30_study/14_DWI_dir80_PA": (f"1 {REFUSED}.* is a colour image.*", COLOUR),
    "small/generic_rgb_001": (f"1 {REFUSED}.* is a colour image.*", COLOUR),
    "small/generic_compressed_jpegls_001": ("0 volumes instead of 1", "Debian's dcm2niix decodes no JPEG-LS"),
    "small/philips_dti_001": (
        f"4 {REFUSED}only 2 slices.*",
        "a volume has at least three slices here: two cannot show whether one between them is missing",
    ),
    "philips_enhanced_fe_epi": ("0.003 mm off", ALONG_THE_NORMAL),
    "ge_ct_head_varying_spacing": (
        f"2 {REFUSED}the spacing varies.* none is missing.*",
        "14 slices of 4 mm and 14 of 7 mm: dcm2niix makes one file of all, and one resampled to even spacing",
    ),
    "small/ir_gre_no_sop_class": (f"1 {REFUSED}.* has no SOPClassUID.*", "no result could refer to such an image"),
}

# The same for series of which the node is known to be wrong. An entry whose difference has gone must leave this table.
KNOWN_WRONG: dict[str, tuple[str, str]] = {}


def test_every_series_is_listed(test_data: Path) -> None:
    mr = test_data / "mr"
    folders = {path.parent.relative_to(mr).as_posix() for path in mr.rglob("*") if path.is_file()}
    assert folders == set(SERIES)
    assert DIFFERENT.keys() | KNOWN_WRONG.keys() <= folders
    assert not DIFFERENT.keys() & KNOWN_WRONG.keys()


@pytest.mark.parametrize("series", SERIES)
def test_volumes_are_those_of_dcm2niix(test_data: Path, tmp_path: Path, series: str) -> None:
    found = difference(test_data / "mr" / series, tmp_path)
    what, _ = (DIFFERENT | KNOWN_WRONG).get(series, ("", ""))
    assert re.fullmatch(what, found), found


def difference(folder: Path, output: Path) -> str:
    """Describe how what the node and dcm2niix make of a series differs; return an empty text where it does not."""
    theirs = list(converted(folder, output / "measured"))
    try:
        ours = read_volumes(file_blobs(sorted(folder.iterdir())))
    except InputRefused as refusal:
        return f"{len(theirs)} volume{'s' * (len(theirs) > 1)}, and the node refuses: {refusal}" if theirs else ""
    if len(theirs) != len(ours):
        return f"{len(theirs)} volumes instead of {len(ours)}"
    found = set()
    units = any(volume.stated_units for volume in ours)
    shown = list(converted(folder, output / "shown", "-p", "n")) if units else list(theirs)
    for volume in ours:
        compared = shown if volume.stated_units else theirs
        values, off, n = min((*apart(volume, image), n) for n, image in enumerate(compared))
        if values > ALIKE:
            return f"nothing like the volume {dict(volume.told_apart)}"
        if values > RELATIVE:
            found.add(f"values {values:.1e} apart")
        if off > MILLIMETRES:
            found.add(f"{off:.3f} mm off")
        del theirs[n], shown[n]
    return ", ".join(sorted(found))


def converted(folder: Path, output: Path, *options: str) -> Iterator[Image]:
    """Yield the 3D images that dcm2niix makes of a folder."""
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not installed: run tests/install-peers.sh")
    output.mkdir(parents=True)
    command = [program, "-b", "n", "-f", "%s_%d", *options, "-o", output, folder]
    subprocess.run(command, check=False, capture_output=True)
    for path in sorted(output.glob("*.nii")):
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
        affine = LPS_OF_RAS @ image.affine
        if array.dtype.names:  # RGB
            array = array["R"]
        for n in range(array.shape[3] if array.ndim == 4 else 1):
            yield array[..., n] if array.ndim == 4 else array, affine


def apart(volume: Volume, image: Image) -> tuple[float, float]:
    """Return how far apart values are, as a fraction of the largest, and voxel centres, in mm, at most.

    Both are infinite if the grids differ in size, or in direction by more than a turn.
    """
    array, affine = image
    mapped = np.linalg.inv(affine) @ volume.geometry.affine  # (slice, row, column, 1) to (i, j, k, 1)
    turn = np.round(mapped[:3, :3]).astype(int)
    if (np.abs(turn).sum(axis=0) != 1).any() or (np.abs(turn).sum(axis=1) != 1).any():
        return np.inf, np.inf
    axes = np.abs(turn).argmax(axis=0)
    backwards = turn.sum(axis=0) < 0
    turned = np.flip(array.transpose(axes), np.flatnonzero(backwards))
    if turned.shape != volume.array.shape:
        return np.inf, np.inf
    values = np.abs(volume.array - turned).max() / np.abs(turned).max()
    corners = np.array(list(product(*((0, size - 1) for size in turned.shape))))
    indices = np.where(backwards, np.array(turned.shape) - 1 - corners, corners)[:, np.argsort(axes)]
    places = indices @ affine[:3, :3].T + affine[:3, 3]
    return float(values), float(np.linalg.norm(places - volume.geometry.to_lps(corners.astype(float)), axis=1).max())
