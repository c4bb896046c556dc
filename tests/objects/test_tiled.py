"""Result objects of slices that are tiled into one image: they lie where the tiles lie, and are drawn on them."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from PIL import Image, ImageDraw

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.pm import build_pm
from dicom_node.objects.reading.report import read_report
from dicom_node.objects.rtstruct import build_rtstruct
from dicom_node.objects.seg import build_seg
from dicom_node.objects.sr import build_sr
from inference.contract.findings import Findings
from inference.headers.reading import read_object
from inference.volumes.reading import read_volumes
from storage.blobs import file_blobs
from tests.conformance.cases import rich_findings
from tests.validators import dciodvfy_errors

CONTEXT = ObjectContext("NODE", "seed")


@pytest.fixture(params=["siemens_prisma_epi_mosaic", "uih_umr770_dti_vframe"])
def found(request: pytest.FixtureRequest, test_data: Path) -> Findings:
    return rich_findings(
        read_volumes(file_blobs(sorted((test_data / "mr" / request.param).iterdir())[:2]))[1], overlap=False
    )


def test_a_segmentation_lies_where_the_tiles_lie(tmp_path: Path, found: Findings) -> None:
    seg = build_seg(found, CONTEXT)
    seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []
    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True, allow_missing_positions=True)
    wanted = sum(n * segment.mask for n, segment in enumerate(found.segments, 1))
    places = found.source.geometry.to_lps(np.argwhere(wanted).astype(float))
    indices = volume.map_reference_to_indices(places, round_output=False)
    assert np.allclose(indices, np.round(indices), atol=1e-3)
    assert np.array_equal(volume.array[tuple(np.round(indices).astype(int).T)], wanted[wanted > 0])
    assert np.count_nonzero(volume.array) == len(places)
    (reference,) = {item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence}
    assert reference == found.source.frames[0].sop_instance_uid


def test_a_report_draws_on_the_tiles(found: Findings) -> None:
    """Pixels of the whole image inside a region are those of the slice inside the segment."""
    image = read_object(found.source.frames[0].blob).pixel_array
    for group in read_report(build_sr(found, CONTEXT, None)).groups:
        segment = next((s for s in found.segments if s.tracking_uid == group.tracking_uid), None)
        if segment is None:
            continue
        drawn = np.zeros(image.shape, bool)
        for region in group.regions:
            picture = Image.new("1", (4 * image.shape[1], 4 * image.shape[0]))
            ImageDraw.Draw(picture).polygon([(4 * c, 4 * r) for c, r in region.points], fill=1)
            drawn |= np.asarray(picture)[2::4, 2::4]
        assert len(group.regions) == np.count_nonzero(segment.mask.any(axis=(1, 2)))
        assert np.array_equal(np.sort(image[drawn]), np.sort(found.source.array[segment.mask]))


def test_contours_and_maps_lie_on_the_tiles(found: Findings) -> None:
    geometry = found.source.geometry
    rtstruct = build_rtstruct(found, CONTEXT)
    assert rtstruct is not None
    for roi, segment in zip(rtstruct.ROIContourSequence, found.segments, strict=True):
        points = np.concatenate([np.array(c.ContourData, float).reshape(-1, 3) for c in roi.ContourSequence])
        indices = np.linalg.solve(geometry.affine[:3, :3], (points - geometry.affine[:3, 3]).T).T
        inside = np.argwhere(segment.mask)
        edge = np.array([0, 0.5, 0.5])
        assert np.allclose(indices.min(axis=0) + edge, inside.min(axis=0), atol=1e-3)
        assert np.allclose(indices.max(axis=0) - edge, inside.max(axis=0), atol=1e-3)
    pm = build_pm(found, found.maps[0], CONTEXT)
    for k, frame in enumerate(pm.PerFrameFunctionalGroupsSequence):
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.allclose(place, geometry.to_lps(np.array([[k, 0, 0]], float))[0], atol=1e-3)
