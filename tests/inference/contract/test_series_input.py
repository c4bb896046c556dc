"""The volumes of a series that an application gets, by `volumes` and `select` of its declared inputs."""

from pathlib import Path

import pytest

from inference.contract.application import load_application
from inference.contract.binding import bind
from inference.contract.findings import Findings
from inference.contract.inputs import InputRule
from inference.contract.manifest import Manifest, load_manifest
from inference.contract.series_input import SeriesInput, read_input
from inference.engine.models import TorchEngine
from inference.headers.image_content import COMPONENT, FRAME_TYPE, MAGNITUDE
from inference.series.kinds import Kind
from inference.series.recogniser import read_headers, recognise_headers
from inference.series.site_table import SiteRule
from storage.blobs import file_blobs
from storage.errors import InputRefused
from tests.acceptance.tiny_model import BUNDLE, write_bundle

TWO_ECHOES = "mr/siemens_xa30_study/8_gre_field_mapping"  # magnitude at TE 10 and 12.46 ms, 33 slices each
MAGNITUDE_AND_PHASE = "mr/philips_elition_fieldmap_classic_2echo_magphase"  # of two echoes, 53 slices each


def files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.iterdir()))


def manifest_of(folder: Path, select: str | None) -> Manifest:
    """Load the manifest of a model folder whose input takes any MR series, and of several volumes the selected one."""
    write_bundle(folder)
    line = f'select = "{select}"' if select is not None else ""
    (folder / "bundle.toml").write_text(BUNDLE.replace('kind = "T1w"', line))
    return load_manifest("segmentation", "own", folder)


def run(manifest: Manifest, paths: tuple[Path, ...]) -> Findings:
    inputs = {"image": SeriesInput("image", "", file_blobs(paths))}
    return load_application(manifest).run(inputs, TorchEngine("cpu"), lambda what, done: None)


@pytest.mark.parametrize(("select", "echo_time"), [("shortest echo", 10), ("longest echo", 12.46)])
def test_an_application_gets_the_volume_that_its_descriptor_selects(
    tmp_path: Path, test_data: Path, select: str, echo_time: float
) -> None:
    paths = files(test_data / TWO_ECHOES)
    manifest = manifest_of(tmp_path, select)
    assert bind(manifest.inputs, [recognise_headers(read_headers(file_blobs(paths)))]).accepted
    source = run(manifest, paths).source
    assert source.told_apart["EchoTime"] == echo_time
    assert source.geometry.shape == (33, 64, 64)
    frames = {(frame.sop_instance_uid, frame.frame_number) for frame in source.frames}
    assert len(frames) == 33


@pytest.mark.parametrize(
    ("series", "select", "told"),
    [
        (TWO_ECHOES, "water", r"none of the 2 volumes of the series can be the one asked for \(water\); send"),
        (TWO_ECHOES, "magnitude", r"2 of the 2 volumes of the series can be the one asked for \(magnitude\); send"),
        (MAGNITUDE_AND_PHASE, "magnitude", r"2 of the 4 volumes of the series can be the one asked for"),
    ],
)
def test_a_selection_that_means_no_single_volume_is_refused(
    tmp_path: Path, test_data: Path, series: str, select: str, told: str
) -> None:
    with pytest.raises(InputRefused, match=told):
        run(manifest_of(tmp_path, select), files(test_data / series))


def test_a_phase_is_no_echo(tmp_path: Path, test_data: Path) -> None:
    source = run(manifest_of(tmp_path, "shortest echo"), files(test_data / MAGNITUDE_AND_PHASE)).source
    assert (source.told_apart["EchoTime"], source.told_apart[COMPONENT]) == (2.3, MAGNITUDE)


def test_without_a_selection_a_series_of_several_volumes_is_not_taken(tmp_path: Path, test_data: Path) -> None:
    paths = files(test_data / TWO_ECHOES)
    manifest = manifest_of(tmp_path, None)
    binding = bind(manifest.inputs, [recognise_headers(read_headers(file_blobs(paths)))])
    assert not binding.accepted
    assert "holds 2 volumes (EchoTime 10, 12.46), and the input takes one" in binding.reason
    with pytest.raises(InputRefused, match=r"the series holds 2 volumes: EchoTime 10, 12\.46"):
        run(manifest, paths)


def test_an_input_may_take_all_volumes(test_data: Path) -> None:
    series = SeriesInput("echoes", "", file_blobs(files(test_data / TWO_ECHOES)))
    volumes = read_input(series, [InputRule("echoes", volumes="all")])
    assert [volume.told_apart["EchoTime"] for volume in volumes] == [10, 12.46]


@pytest.mark.parametrize(
    ("case", "kind", "what"),
    [
        ("adcmix_adc_frames_b0", Kind.ADC, (FRAME_TYPE, "ADC")),
        ("adcmix_phase_beside_magnitude", Kind.DWI, None),
        ("d1022_philips_enhanced_mdixon_quant", Kind.FAT_FRACTION, (FRAME_TYPE, "fat fraction")),
        ("d463_philips_dce_mag_phase", Kind.T1W, None),
    ],
)
def test_the_only_volume_of_a_kind_is_the_one_that_is_meant(
    test_data: Path, case: str, kind: Kind, what: tuple[str, str] | None
) -> None:
    """Without `select`, an input takes the map beside its source images, and refuses several images of one kind."""
    folder = test_data.parent / "cases" / "mr" / case
    if not folder.is_dir():
        pytest.skip("the cases of the field are not here")
    site = (SiteRule(kind=kind, series_description="*"),)
    rules = (InputRule("image", kind=(kind,)),)
    binding = bind(rules, [recognise_headers(read_headers(file_blobs(files(folder))), site)])
    assert binding.accepted is (what is not None)
    series = SeriesInput("image", "", file_blobs(files(folder)))
    if what is None:
        assert "volumes" in binding.reason
        with pytest.raises(InputRefused, match="the series holds"):
            read_input(series, rules)
    else:
        assert read_input(series, rules)[0].told_apart[what[0]] == what[1]
