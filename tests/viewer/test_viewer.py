"""OHIF, opened as a reader opens it, shows images, segmentation and report where and as they are.

Screenshots of every case are kept below build/viewer, or below the folder in DICOM_NODE_SCREENSHOTS.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.demo.pacs.base import PacsKind
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.demo.simulator.limb_study import write_limb_patient
from dicom_node.objects.base.codes import RESEARCH_NOTICE
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import build_objects
from dicom_node.objects.drawing.outline import key_slice, outline
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.profiles import ObjectProfile
from inference.contract.application import load_application
from inference.contract.findings import Findings, NoResult, NotComputed, ParametricMap, Segment
from inference.contract.inputs import input_key
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from storage.errors import WhyNoResult
from storage.records.results import ObjectKind
from tests.acceptance.studies import write_ball_study
from tests.conformance.breakages import mirrored
from tests.conformance.cases import rich_findings
from tests.conftest import REPOSITORY
from tests.inference.volumes.centroid import centroid_lps
from tests.viewer.server import serve
from tests.viewer.viewer import CALLER, OHIF, Study, Viewer, require_viewer

pytestmark = pytest.mark.viewer

SCREENSHOTS = Path(os.environ.get("DICOM_NODE_SCREENSHOTS", REPOSITORY / "build" / "viewer"))
DRAWN = 5  # values of a finding that OHIF 3.13.2 draws on the image; of a 0 it draws the name alone
STEP = 97  # as in look.js: of the voxels of a map so many make one value
TRIAL_SEED = 12  # a limb that no network was trained on
VISIBLE = 300  # pixels of the screen that the overlay of a segment changes, at least


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    require_viewer()
    folder = tmp_path_factory.mktemp("pacs")
    with start_pacs(folder, callers=[CALLER], kind=PacsKind.ORTHANC, dicomweb=True) as pacs:
        assert pacs.http_url is not None
        with serve(OHIF, pacs.http_url) as url:
            yield Viewer(pacs, url)


def axial(folder: Path, test_data: Callable[[], Path]) -> list[Path]:
    return write_ball_study(folder).paths


def oblique(folder: Path, test_data: Callable[[], Path]) -> list[Path]:
    return sorted((test_data() / "mr" / "ge_hdxt_prostate_adc").iterdir())


def sagittal_hfdr(folder: Path, test_data: Callable[[], Path]) -> list[Path]:
    return sorted((test_data() / "mr" / "siemens_prisma_t1_sag_HFDR").iterdir())


def enhanced(folder: Path, test_data: Callable[[], Path]) -> list[Path]:
    """Under other identifiers: OHIF 3.13.2 opens this study as it is, PatientID 12343@hucheng, as an empty panel."""
    (source,) = (test_data() / "mr" / "siemens_xa30_study" / "5_anat-T1w_acq-tfl").iterdir()
    ds = dcmread(source)
    ds.PatientID = "P-1"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        ds[keyword].value = generate_uid(entropy_srcs=[str(ds[keyword].value)])
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    folder.mkdir()
    ds.save_as(folder / "enhanced.dcm")
    return [folder / "enhanced.dcm"]


def regions_only(paths: list[Path]) -> Findings:
    """Findings whose every value belongs to a region, and regions that do not overlap.

    Where segments overlap, OHIF 3.13.2 shows them right, but its own statistics take half the slice distance.
    """
    return replace(rich_findings(read_volume(file_blobs(paths)), overlap=False), measurements=())


def put(
    viewer: Viewer,
    paths: list[Path],
    findings: Findings,
    folder: Path,
    breaks: Callable[[dict[str, Any]], None] = lambda objects: None,
    profile: ObjectProfile | None = None,
) -> Study:
    """Stores images, and what the node writes of them, in the PACS."""
    objects = {
        f"{built.kind} {built.dataset.SeriesNumber}" if built.kind is ObjectKind.PM else str(built.kind): built.dataset
        for built in build_objects(findings, ObjectContext("NODE", f"viewer {folder}"), profile or ObjectProfile())
        if not built.stands_for
    }
    breaks(objects)
    files = [folder / f"{name}.dcm" for name in objects]
    for file, ds in zip(files, objects.values(), strict=True):
        ds.save_as(file, enforce_file_format=True)
    viewer.store([*paths, *files])
    header = dcmread(paths[0], stop_before_pixels=True)
    named = {name: str(ds.SeriesDescription) for name, ds in objects.items()}
    return Study(
        study_instance_uid=str(header.StudyInstanceUID),
        images=str(header.SeriesDescription),
        segmentation=named.get("SEG", ""),
        report=named["SR"],
        structures=named.get("RTSTRUCT", ""),
        maps=tuple(description for name, description in named.items() if name.startswith("PM")),
        findings=len(findings.segments),
        image_series=len({dcmread(path, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID for path in paths}),
    )


@pytest.mark.parametrize("series", [axial, oblique, sagittal_hfdr, enhanced], ids=lambda series: series.__name__)
def test_the_viewer_shows_what_was_found(
    viewer: Viewer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    series: Callable[[Path, Callable[[], Path]], list[Path]],
) -> None:
    paths = series(tmp_path / "study", lambda: request.getfixturevalue("test_data"))
    findings = regions_only(paths)
    study = put(viewer, paths, findings, tmp_path)
    seen = viewer.look(study, SCREENSHOTS / series.__name__)
    assert mistakes(seen, study, findings) == []
    assert report_mistakes(seen, findings) == []
    assert (seen["elsewhere"], seen["refused"]) == ([], [])


def test_a_mirrored_segmentation_is_noticed(viewer: Viewer, tmp_path: Path) -> None:
    """Only by its centre: slices, labels, voxels and volume are right."""
    paths = write_ball_study(tmp_path / "study", seed=2).paths
    findings = regions_only(paths)
    study = put(viewer, paths, findings, tmp_path, breaks=mirrored)
    seen = viewer.look(replace(study, report=""), SCREENSHOTS / "mirrored")
    assert [m.split(" at ")[0] for m in mistakes(seen, study, findings)] == [
        f"{segment.label} lies" for segment in findings.segments
    ]


@pytest.mark.timeout(600)
def test_a_trials_objects_are_shown(viewer: Viewer, tmp_path: Path) -> None:
    """The second examination of a simulated limb: segmentation, maps, structures for planning, and the report."""
    studies = [study for study, _ in write_limb_patient(tmp_path / "limb", TRIAL_SEED, 2)]
    inputs = {
        input_key(name, point): SeriesInput(name, series.series_instance_uid, file_blobs(series.paths), point)
        for point, study in ((1, studies[0]), (0, studies[1]))
        for name, series in study.series.items()
        if name in ("t1w", "t2w_fs", "dwi", "t1_map", "t2_map")
    }
    application = load_application(load_manifest("extremity_sts_sbrt", "extremity_sts_sbrt", None))
    findings = application.run(inputs, TorchEngine("cpu"), lambda what, part: None)
    kinds = frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.RTSTRUCT, ObjectKind.SR})
    shown = [input_key(name, 0) for name in ("t1w", "dwi", "t1_map", "t2_map")]  # maps name what they were made from
    paths = [blob.path for key in shown for blob in inputs[key].blobs]
    study = put(viewer, paths, findings, tmp_path, profile=ObjectProfile(objects=kinds))
    # One more finding in the report: what changed since the first examination belongs to no region.
    seen = viewer.look(replace(study, findings=study.findings + 1), SCREENSHOTS / "trial")
    # Segments overlap here, and then OHIF's own volumes are half of what its own voxels say.
    assert [m for m in mistakes(seen, study, findings) if "mm3" not in m] == []
    assert report_mistakes({"report": seen["report"][:-1]}, findings) == []
    assert "Change of volume from baseline" in seen["report"][-1]["text"]
    assert structure_mistakes(seen["structures"], findings) == []
    for one, description in zip(findings.maps, study.maps, strict=True):
        assert map_mistakes(seen["maps"][description], one, findings) == []
    assert (seen["elsewhere"], seen["refused"]) == ([], [])


def test_values_of_no_region_are_shown_beside_those_of_regions(viewer: Viewer, tmp_path: Path) -> None:
    paths = write_ball_study(tmp_path / "study", seed=3).paths
    findings = rich_findings(read_volume(file_blobs(paths)), overlap=False)
    study = put(viewer, paths, findings, tmp_path)
    seen = viewer.look(
        replace(study, segmentation="", findings=len(findings.segments) + 1), SCREENSHOTS / "values_of_no_region"
    )
    assert report_mistakes({"report": seen["report"][:-1]}, findings) == []
    assert "Probability: 0.42" in seen["report"][-1]["text"]


def test_a_report_without_findings_is_a_page_of_text(viewer: Viewer, tmp_path: Path) -> None:
    paths = write_ball_study(tmp_path / "study", seed=4).paths
    findings = replace(rich_findings(read_volume(file_blobs(paths))), segments=())
    (page,) = viewer.look(put(viewer, paths, findings, tmp_path), SCREENSHOTS / "no_finding")["report"]
    for words in (RESEARCH_NOTICE, "segmented nothing", *findings.notes, "0.42"):
        assert words in page["text"]


def test_a_report_of_no_result_is_a_page_of_text(viewer: Viewer, tmp_path: Path) -> None:
    paths = write_ball_study(tmp_path / "study", seed=5).paths
    refused = NotComputed("Test mass", WhyNoResult.POOR_QUALITY, "The images show motion.")
    result = NoResult((refused,), datetime.now(UTC))
    report = build_no_result(result, file_blobs(paths), ObjectContext("NODE", f"viewer {tmp_path}"))
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    viewer.store([*paths, tmp_path / "report.dcm"])
    study = Study(str(report.StudyInstanceUID), "T1 TSE axial", report=str(report.SeriesDescription))
    (page,) = viewer.look(study, SCREENSHOTS / "no_result")["report"]
    for words in (RESEARCH_NOTICE, "was not computed. This says nothing of the patient", "The images show motion."):
        assert words in page["text"]


def mistakes(seen: dict[str, Any], study: Study, findings: Findings) -> list[str]:
    """Where images and segmentation in the viewer differ from the findings."""
    found: list[str] = []
    images, shown = seen["images"], seen["segmentation"]
    if images["series"] != [study.images]:
        found.append(f"the viewport shows {images['series']}")
    if images["slices"] != findings.source.array.shape[0]:
        found.append(f"{images['slices']} slices of {findings.source.array.shape[0]}")
    if [s["label"] for s in shown["segments"]] != [s.label for s in findings.segments]:
        return [*found, f"segments {[s['label'] for s in shown['segments']]}"]
    for number, (segment, of) in enumerate(zip(findings.segments, shown["segments"], strict=True), 1):
        found += _segment_mistakes(segment, of, shown["voxels"].get(str(number), 0), findings)
    return found


def _segment_mistakes(segment: Segment, seen: dict[str, Any], voxels: int, findings: Findings) -> Iterator[str]:
    geometry, frames = findings.source.geometry, findings.source.frames
    if voxels != segment.mask.sum():
        yield f"{segment.label} has {voxels} voxels, not {segment.mask.sum()}"
    volume = float(segment.mask.sum()) * geometry.voxel_volume
    if seen["volume"] != pytest.approx(volume, rel=0.01):
        yield f"{segment.label} has {seen['volume']} mm3, not {volume}"
    distance = np.linalg.norm(np.subtract(seen["centre"], centroid_lps(segment.mask, geometry)))
    if distance > max(geometry.spacing) / 2:
        yield f"{segment.label} lies at {seen['centre']}, {distance:.1f} mm off"
    slices = {frames[k].sop_instance_uid for k in np.flatnonzero(segment.mask.any(axis=(1, 2)))}
    if seen["instance"] not in slices:
        yield f"the viewer goes to a slice without {segment.label}"
    if seen["pixels"] < VISIBLE:
        yield f"{segment.label} changes only {seen['pixels']} pixels of the screen"


ROI_NAMES = {"GTV": "Mass", "Neurovascular bundle": "Neurovascular"}  # short, and no target volume


def structure_mistakes(seen: list[dict[str, Any]], findings: Findings) -> list[str]:
    """Where the outlines of the structure set in the viewer differ from the segments."""
    geometry = findings.source.geometry
    if [s["label"] for s in seen] != [ROI_NAMES.get(s.label, s.label) for s in findings.segments]:
        return [f"structures {[s['label'] for s in seen]}"]
    found = []
    for segment, shown in zip(findings.segments, seen, strict=True):
        inside = geometry.to_lps(np.argwhere(segment.mask).astype(float))
        box = [inside.min(axis=0), inside.max(axis=0)]
        if shown["box"] is None or np.abs(np.subtract(shown["box"], box)).max() > max(geometry.spacing[1:]):
            found.append(f"{segment.label} lies in {shown['box']}, not {box}")
        if shown["slices"] != segment.mask.any(axis=(1, 2)).sum():
            found.append(f"{segment.label} is outlined on {shown['slices']} slices")
    return found


def map_mistakes(seen: dict[str, Any], one: ParametricMap, findings: Findings) -> list[str]:
    """Where a parametric map in the viewer differs: voxel by voxel, or in being seen at all."""
    order = [frame.sop_instance_uid for frame in findings.source.frames]
    expected = one.values[[order.index(uid) for uid in seen["instances"]]].ravel()[::STEP]
    shown = np.array([np.nan if value is None else value for value in seen["values"]])
    found = [] if np.allclose(shown, expected, rtol=1e-3, equal_nan=True) else [f"{one.label} has other values"]
    return found + ([f"{one.label} cannot be seen"] if seen["pixels"] < VISIBLE else [])


def report_mistakes(seen: dict[str, Any], findings: Findings) -> list[str]:
    """Where the report in the viewer differs from the findings: numbers on the image, and the drawn outline."""
    found: list[str] = []
    geometry = findings.source.geometry
    for segment, shown in zip(findings.segments, seen["report"], strict=True):
        k = key_slice(segment.mask)
        if shown["instance"] != findings.source.frames[k].sop_instance_uid:
            found.append(f"{segment.label} is not shown on its key slice")
        for m in [m for m in segment.measurements if m.value is not None][:DRAWN]:
            number = f": {m.value:.2f} {m.unit.value}" if m.value else ""
            if number not in shown["text"]:
                found.append(f"{m.name.meaning}{number} of {segment.label} is not on the image: {shown['text']}")
        edges = outline(segment.mask[k])  # (column, row), pixel edges are integers
        corners = np.array([edges.min(axis=0), edges.max(axis=0)])[:, ::-1] - 0.5
        truth = geometry.to_lps(np.column_stack([[k, k], corners]))
        offs = [np.abs(np.subtract(drawn, truth)).max() for drawn in shown["outlines"]]
        if not offs or min(offs) > max(geometry.spacing[1:]):
            found.append(f"the outline of {segment.label} is {offs} mm off")
    return found
