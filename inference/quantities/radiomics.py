"""Radiomic features of a region, defined and named by the IBSI (Zwanenburg et al. 2020,
doi 10.1148/radiol.2020191145; reference manual arXiv 1612.07003), each with its IBSI code.

First-order and shape features are computed here. Texture features come from nyxus, which is an optional extra; only
those of its 3D features are taken that reproduce the reference values of the IBSI's digital phantom.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from inference.contract.findings import Code, Mask
from inference.quantities.mesh import mesh_area, mesh_volume, surface_mesh
from inference.quantities.statistics import NO_UNIT, moments
from inference.volumes.measurements import diameters, volume_ml
from inference.volumes.volume import Geometry
from storage.errors import InputRefused, Permanent

Levels = NDArray[np.int16]

MM, MM2, MM3 = (
    Code("mm", "UCUM", "mm"),
    Code("mm2", "UCUM", "square millimeter"),
    Code("mm3", "UCUM", "cubic millimeter"),
)
PER_MM = Code("/mm", "UCUM", "per millimeter")
LEGENDRE_TERMS = 20  # after which the IBSI stops the series for the area of an ellipsoid
LEAST_VOXELS = 4  # three axes need four points that are not in one plane
MAXIMUM_LEVELS = 256


@dataclass(frozen=True)
class Feature:
    """A value with its IBSI code. `unit` is None where it is the unit of the image, or its square."""

    code: Code
    value: float
    unit: Code | None = NO_UNIT


def first_order(values: NDArray[Any], mask: Mask) -> tuple[Feature, ...]:
    """The intensity-based statistics (IBSI UHIW) of `values` inside `mask`; NaN is ignored.

    Moments divide by n; kurtosis is 0 for a normal distribution. Skewness and kurtosis of a constant are 0.
    Raises InputRefused where the mask holds no value.
    """
    x = np.asarray(values[mask], np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        raise InputRefused("there are no values inside the mask; first-order features need at least one")
    mean, sd, skewness, kurtosis = moments(x)
    p10, p25, median, p75, p90 = (float(v) for v in np.percentile(x, (10, 25, 50, 75, 90)))
    middle = x[(x >= p10) & (x <= p90)]
    plain = (
        ("Q4LE", "Mean Intensity", mean),
        ("ECT3", "Intensity Variance", sd**2),
        ("Y12H", "Median Intensity", median),
        ("1GSF", "Minimum Intensity", float(x.min())),
        ("QG58", "10th Intensity Percentile", p10),
        ("8DWT", "90th Intensity Percentile", p90),
        ("84IY", "Maximum Intensity", float(x.max())),
        ("SALO", "Intensity Interquartile Range", p75 - p25),
        ("2OJQ", "Intensity Range", float(np.ptp(x))),
        ("4FUA", "Intensity-based Mean Absolute Deviation", float(np.abs(x - mean).mean())),
        ("1128", "Intensity-based Robust Mean Absolute Deviation", float(np.abs(middle - middle.mean()).mean())),
        ("N72L", "Intensity-based Median Absolute Deviation", float(np.abs(x - median).mean())),
        ("N8CA", "Intensity-based Energy", float((x**2).sum())),
        ("5ZWQ", "Root Mean Square Intensity", float(np.sqrt((x**2).mean()))),
    )
    ratios = (
        ("KE2A", "Intensity Skewness", skewness if sd > 0 else 0.0),
        ("IPH6", "Excess Intensity Kurtosis", kurtosis if sd > 0 else 0.0),
        ("7TET", "Intensity-based Coefficient of Variation", _ratio(sd, mean)),
        ("9S40", "Intensity-based Quartile Coefficient of Dispersion", _ratio(p75 - p25, p75 + p25)),
    )
    return (
        *(Feature(Code(code, "IBSI", name), value, None) for code, name, value in plain),
        *(Feature(Code(code, "IBSI", name), value) for code, name, value in ratios),
    )


def shape(mask: Mask, geometry: Geometry) -> tuple[Feature, ...]:
    """The morphological features (IBSI HCUG) that need no intensities, in mm, mm2 and mm3; exact on oblique grids.

    Bounding boxes lie along the axes of the array. Raises InputRefused for a mask of fewer than four voxels, or one
    whose voxel centres all lie in one plane.
    """
    if np.count_nonzero(mask) < LEAST_VOXELS:
        raise InputRefused(f"the region has {np.count_nonzero(mask)} voxels; shape features need {LEAST_VOXELS}")
    indices = np.argwhere(mask).astype(np.float64)
    spread = np.linalg.eigvalsh(np.cov(geometry.to_lps(indices).T))[::-1]
    if spread[2] <= 1e-9 * spread[0]:
        raise InputRefused("the voxels of the region lie in one plane; shape features need a region of several slices")
    major, minor, least = (4.0 * math.sqrt(v) for v in spread)
    mesh = surface_mesh(mask, geometry)
    area, volume = mesh_area(mesh), mesh_volume(mesh)
    hull = ConvexHull(mesh.reshape(-1, 3))
    extent = np.ptp(indices, axis=0) + 1.0  # voxels
    box_volume, box_area = float(extent.prod()) * geometry.voxel_volume, _box_area(extent, geometry)
    ellipsoid_volume = math.pi * major * minor * least / 6.0
    ellipsoid_area = _ellipsoid_area(major / 2.0, minor / 2.0, least / 2.0)
    sphericity = (36.0 * math.pi * volume**2) ** (1 / 3) / area
    found = (
        ("RNU0", "Volume of Mesh", volume, MM3),
        ("YEKZ", "Volume from Voxel Summation", 1000.0 * volume_ml(mask, geometry), MM3),
        ("C0JK", "Surface Area of Mesh", area, MM2),
        ("2PR5", "Surface to Volume Ratio", area / volume, PER_MM),
        ("SKGS", "Compactness 1", volume / (math.sqrt(math.pi) * area**1.5), NO_UNIT),
        ("BQWJ", "Compactness 2", sphericity**3, NO_UNIT),
        ("KRCK", "Spherical Disproportion", 1.0 / sphericity, NO_UNIT),
        ("QCFX", "Sphericity", sphericity, NO_UNIT),
        ("25C7", "Asphericity", 1.0 / sphericity - 1.0, NO_UNIT),
        ("L0JK", "Maximum 3D Diameter of a Mesh", diameters(mask, geometry).maximum_3d, MM),
        ("TDIC", "Major Axis in 3D Length", major, MM),
        ("P9VJ", "Minor Axis in 3D Length", minor, MM),
        ("7J51", "Least Axis in 3D Length", least, MM),
        ("Q3CK", "Elongation", minor / major, NO_UNIT),
        ("N17B", "Flatness", least / major, NO_UNIT),
        ("PBX1", "Volume Density in Frame of Reference Axis Aligned Bounding Box", volume / box_volume, NO_UNIT),
        ("R59B", "Area Density in Frame of Reference Axis Aligned Bounding Box", area / box_area, NO_UNIT),
        ("6BDE", "Volume Density in Approximate Enclosing Ellipsoid", volume / ellipsoid_volume, NO_UNIT),
        ("RDD2", "Area Density in Approximate Enclosing Ellipsoid", area / ellipsoid_area, NO_UNIT),
        ("R3ER", "Volume Density in Convex Hull", volume / float(hull.volume), NO_UNIT),
        ("7T7F", "Area Density in Convex Hull", area / float(hull.area), NO_UNIT),
    )  # fmt: skip
    return tuple(Feature(Code(code, "IBSI", name), value, unit) for code, name, value, unit in found)


def fixed_bin_number(values: NDArray[Any], mask: Mask, levels: int = 32) -> Levels:
    """Grey levels 1..`levels` of equal width between the extremes inside `mask` (IBSI K15C), 0 elsewhere.

    For images whose intensities have no unit (T1w, T2w).
    """
    low, high = _extremes(values, mask)
    scale = levels / (high - low) if high > low else 0.0
    return _levels((np.asarray(values, np.float64) - low) * scale, mask, levels)


def fixed_bin_size(values: NDArray[Any], mask: Mask, width: float, low: float = 0.0) -> Levels:
    """Grey levels of `width` counted from `low` (IBSI Q3RU), in the image's unit; 0 outside `mask` and below `low`.

    For maps whose values are comparable between patients (ADC, T1, T2). Raises InputRefused beyond 256 levels.
    """
    count = math.floor((_extremes(values, mask)[1] - low) / width) + 1
    return _levels((np.asarray(values, np.float64) - low) / width, mask, count)


def texture(levels: Levels) -> tuple[Feature, ...]:
    """Co-occurrence, run-length and size-zone features of grey levels [slice, row, column], 0 outside the region.

    In 3D: co-occurrence and run-length features are means over the 13 directions (IBSI ITBB), zones are 26-connected
    (KOBO). Neighbours count alike at any distance, so bring anisotropic voxels to a cubic grid first.
    Raises Permanent where the extra is not installed, InputRefused for a region with a single grey level.
    """
    try:
        import nyxus
    except ModuleNotFoundError:
        raise Permanent("texture features need nyxus; install it with: pip install 'dicom-node[radiomics]'") from None
    import SimpleITK

    if len(np.unique(levels[levels > 0])) < 2:
        raise InputRefused("the region has fewer than two grey levels, and so no texture")
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.nonzero(levels))
    cropped = np.pad(levels[box], 1)
    extractor = nyxus.Nyxus3D(
        ["*3D_GLCM*", "*3D_GLRLM*", "*3D_GLSZM*"],
        ibsi=True,
        coarse_gray_depth=int(cropped.max()),
        n_feature_calc_threads=1,
    )
    with tempfile.TemporaryDirectory() as folder:  # nyxus takes 3D images from files only
        image, region = Path(folder, "image.nii"), Path(folder, "region.nii")
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(cropped), str(image))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray((cropped > 0).astype(np.uint8)), str(region))
        row = extractor.featurize_files([str(image)], [str(region)], False).iloc[0]
    return tuple(Feature(Code(code, "IBSI", meaning), float(row[name])) for name, code, meaning in TEXTURE)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _extremes(values: NDArray[Any], mask: Mask) -> tuple[float, float]:
    inside = values[mask]
    inside = inside[np.isfinite(inside)]
    if inside.size == 0:
        raise InputRefused("there are no values inside the mask; grey levels need at least one")
    return float(inside.min()), float(inside.max())


def _levels(bins: NDArray[np.float64], mask: Mask, count: int) -> Levels:
    """Level 1 for 0 <= bin < 1 and so on; the maximum falls into the last level."""
    if count > MAXIMUM_LEVELS:
        raise InputRefused(f"{count} grey levels are more than {MAXIMUM_LEVELS}; choose wider bins")
    with np.errstate(invalid="ignore"):
        inside = mask & (bins >= 0)
    return np.where(inside, np.minimum(np.where(inside, bins, 0).astype(np.int16) + 1, count), 0).astype(np.int16)


def _box_area(extent: NDArray[np.float64], geometry: Geometry) -> float:
    """mm2, of the box that spans `extent` steps along each axis of the array."""
    one, two, three = (geometry.affine[:3, axis] * extent[axis] for axis in range(3))
    return 2.0 * sum(float(np.linalg.norm(np.cross(u, v))) for u, v in ((one, two), (two, three), (three, one)))


def _ellipsoid_area(a: float, b: float, c: float) -> float:
    """mm2, of the ellipsoid with semi-axes a >= b >= c, by the series of the IBSI (RDD2)."""
    # The series has a limit where axes are alike, but no value: a tiny eccentricity stands for none.
    alpha, beta = (math.sqrt(max(1.0 - (axis / a) ** 2, 1e-12)) for axis in (b, c))
    order = np.arange(LEGENDRE_TERMS + 1)
    series = np.polynomial.legendre.legval(
        (alpha**2 + beta**2) / (2.0 * alpha * beta), (alpha * beta) ** order / (1.0 - 4.0 * order**2)
    )
    return float(4.0 * math.pi * a * b * series)


TEXTURE = (
    # feature of nyxus, IBSI code, meaning (PS3.16 CID 7468)
    ("3GLCM_JMAX_AVE", "GYBY", "Joint Maximum of GLCM"),
    ("3GLCM_JAVE_AVE", "60VM", "Joint Average of GLCM"),
    ("3GLCM_JVAR_AVE", "UR99", "Joint Variance of GLCM"),
    ("3GLCM_JE_AVE", "TU9B", "Joint Entropy of GLCM"),
    ("3GLCM_DIFAVE_AVE", "TF7R", "Difference Average of GLCM"),
    ("3GLCM_DIFVAR_AVE", "D3YU", "Difference Variance of GLCM"),
    ("3GLCM_DIFENTRO_AVE", "NTRS", "Difference Entropy of GLCM"),
    ("3GLCM_SUMAVERAGE_AVE", "ZGXS", "Sum Average of GLCM"),
    ("3GLCM_SUMVARIANCE_AVE", "OEEB", "Sum Variance of GLCM"),
    ("3GLCM_SUMENTROPY_AVE", "P6QZ", "Sum Entropy of GLCM"),
    ("3GLCM_ASM_AVE", "8ZQL", "Angular Second Moment of GLCM"),
    ("3GLCM_CONTRAST_AVE", "ACUI", "Contrast of GLCM"),
    ("3GLCM_DIS_AVE", "8S9J", "Dissimilarity of GLCM"),
    ("3GLCM_ID_AVE", "IB1Z", "Inverse Difference of GLCM"),
    ("3GLCM_IDN_AVE", "NDRX", "Normalized Inverse Difference of GLCM"),
    ("3GLCM_IDM_AVE", "WF0Z", "Inverse Difference Moment of GLCM"),
    ("3GLCM_IDMN_AVE", "1QCO", "Normalized Inverse Difference Moment of GLCM"),
    ("3GLCM_IV_AVE", "E8JP", "Inverse Variance of GLCM"),
    ("3GLCM_CORRELATION_AVE", "NI2N", "Correlation of GLCM"),
    ("3GLCM_ACOR_AVE", "QWB0", "Autocorrelation of GLCM"),
    ("3GLCM_CLUTEND_AVE", "DG8W", "Cluster Tendency of GLCM"),
    ("3GLCM_CLUSHADE_AVE", "7NFM", "Cluster Shade of GLCM"),
    ("3GLCM_CLUPROM_AVE", "AE86", "Cluster Prominence of GLCM"),
    ("3GLCM_INFOMEAS1_AVE", "R8DG", "First Measure of Information Correlation of GLCM"),
    ("3GLCM_INFOMEAS2_AVE", "JN9H", "Second Measure of Information Correlation of GLCM"),
    ("3GLRLM_SRE_AVE", "22OV", "Short Runs Emphasis"),
    ("3GLRLM_LRE_AVE", "W4KF", "Long Runs Emphasis"),
    ("3GLRLM_LGLRE_AVE", "V3SW", "Low Gray Level Run Emphasis"),
    ("3GLRLM_HGLRE_AVE", "G3QZ", "High Gray Level Run Emphasis"),
    ("3GLRLM_SRLGLE_AVE", "HTZT", "Short Run Low Gray Level Emphasis"),
    ("3GLRLM_SRHGLE_AVE", "GD3A", "Short Run High Gray Level Emphasis"),
    ("3GLRLM_LRLGLE_AVE", "IVPO", "Long Run Low Gray Level Emphasis"),
    ("3GLRLM_LRHGLE_AVE", "3KUM", "Long Run High Gray Level Emphasis"),
    ("3GLRLM_GLN_AVE", "R5YN", "Gray Level Nonuniformity in Runs"),
    ("3GLRLM_GLNN_AVE", "OVBL", "Normalized Gray Level Nonuniformity in Runs"),
    ("3GLRLM_RLN_AVE", "W92Y", "Run Length Nonuniformity"),
    ("3GLRLM_RLNN_AVE", "IC23", "Normalized Run Length Nonuniformity"),
    ("3GLRLM_RP_AVE", "9ZK5", "Run Percentage"),
    ("3GLRLM_GLV_AVE", "8CE5", "Gray Level Variance in Runs"),
    ("3GLRLM_RV_AVE", "SXLW", "Run Length Variance"),
    ("3GLRLM_RE_AVE", "HJ9O", "Run Entropy"),
    ("3GLSZM_SAE", "5QRC", "Small Zone Emphasis"),
    ("3GLSZM_LAE", "48P8", "Large Zone Emphasis"),
    ("3GLSZM_LGLZE", "XMSY", "Low Gray Level Zone Emphasis"),
    ("3GLSZM_HGLZE", "5GN9", "High Gray Level Zone Emphasis"),
    ("3GLSZM_SALGLE", "5RAI", "Small Zone Low Gray Level Emphasis"),
    ("3GLSZM_SAHGLE", "HW1V", "Small Zone High Gray Level Emphasis"),
    ("3GLSZM_LALGLE", "YH51", "Large Zone Low Gray Level Emphasis"),
    ("3GLSZM_LAHGLE", "J17V", "Large Zone High Gray Level Emphasis"),
    ("3GLSZM_GLN", "JNSA", "Gray Level Nonuniformity of Size Zone Counts"),
    ("3GLSZM_GLNN", "Y1RO", "Normalized Gray Level Nonuniformity of Size Zone Counts"),
    ("3GLSZM_SZN", "4JP3", "Zone Size Nonuniformity"),
    ("3GLSZM_SZNN", "VB3A", "Normalized Zone Size Nonuniformity"),
    ("3GLSZM_ZP", "P30P", "Size Zone Percentage"),
    ("3GLSZM_GLV", "BYLV", "Gray Level Variance in Size Zones"),
    ("3GLSZM_ZV", "3NSA", "Zone Size Variance"),
    ("3GLSZM_ZE", "GU8N", "Zone Size Entropy"),
)
