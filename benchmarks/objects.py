"""How fast results are made and series are read, beside the tools others use: `make bench-objects`.

One run, interleaved: in each round every case is done by one contender after the other, in an order that turns with the
rounds. Each does it in a process of its own, whose peak memory is its own too. Printed are medians over the rounds, and
ratios. What came out is counted every time; a wrong count ends the run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from benchmarks.meter import Measured, Meter
from benchmarks.peak import Peak, memory
from benchmarks.readers import log_images, node_read, pydicom_read, simpleitk_read
from benchmarks.report import Failed, Goal, console, markdown, show, verdicts, versions
from benchmarks.workloads import mr_slices
from inference.headers.reading import read_header
from storage.blobs import file_blobs

SLICE_DISTANCE = 3  # mm, of the images of `mr_slices`
LIMIT_SECONDS = 300.0
SAMPLE_SECONDS = 0.005
ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")
MASS = ("4147007", "SCT", "Mass")
COLOR = (220, 60, 30)

Labels = NDArray[np.uint8]  # [slice, row, column], 0 where there is no segment


@dataclass(frozen=True)
class Case:
    """A series of `slices` images of matrix², and how many segments lie on it; none where it is only read."""

    name: str
    description: str
    matrix: int
    slices: int
    segments: int

    @property
    def contenders(self) -> tuple[str, ...]:
        return ("node", "dcmqi", "highdicom") if self.segments else ("node", "pydicom", "SimpleITK")


@dataclass
class Results:
    measured: dict[str, dict[str, list[Measured]]] = field(default_factory=dict)  # by case, by contender

    def median(self, case: str, contender: str, of: Callable[[Measured], float]) -> float | None:
        found = self.measured.get(case, {}).get(contender)
        return statistics.median(map(of, found)) if found else None

    def seconds(self, case: str, contender: str) -> float | None:
        return self.median(case, contender, lambda m: m.seconds)

    def ratio(self, case: str, peer: str, of: Callable[[Measured], float]) -> float | None:
        ours, theirs = self.median(case, "node", of), self.median(case, peer, of)
        return ours / theirs if ours and theirs else None


LARGE = Case("large SEG", "512² × 300 with 20 segments: build and write", 512, 300, 20)
SMALL = Case("small SEG", "256² × 200 with 1 segment: build and write", 256, 200, 1)
READ = Case("read", "200 × 512² MR images to one volume", 512, 200, 0)
CASES = {case.name: case for case in (LARGE, SMALL, READ)}


# -- goals: speed and memory -----------------------------------------------------------------------------------------


def goals(results: Results) -> list[Goal]:
    def seconds(measured: Measured) -> float:
        return measured.seconds

    growth = results.median(LARGE.name, "node", lambda m: m.growth_bytes / 2**20)
    of_reading = results.ratio(READ.name, "pydicom", lambda m: m.growth_bytes)
    return [
        Goal("SEG, 512² × 300, 20 segments", results.ratio(LARGE.name, "dcmqi", seconds), 0.5, False, "× dcmqi"),
        Goal("its memory above the start", growth, 500, False, "MB"),
        Goal("SEG, 256² × 200, 1 segment", results.ratio(SMALL.name, "dcmqi", seconds), 1, False, "× dcmqi"),
        Goal("reading 200 × 512²", results.ratio(READ.name, "pydicom", seconds), 0.9, False, "× pydicom"),
        Goal("its memory above the start", of_reading, 1.5, False, "× pydicom"),
    ]


# -- what everybody gets -----------------------------------------------------------------------------------------------


def prepare(case: Case, folder: Path) -> None:
    """Images in `folder`/images; of a segmentation the label map as labels.npy, and as dcmqi wants it."""
    folder.mkdir()
    mr_slices(folder / "images", case.name, case.matrix, case.slices)
    if not case.segments:
        log_images(folder)
    else:
        found = labels(case)
        np.save(folder / "labels.npy", found)
        write_nrrd(folder / "labels.nrrd", found)
        (folder / "meta.json").write_text(json.dumps(dcmqi_metadata(case)))


def labels(case: Case) -> Labels:
    """Ellipsoids that do not touch, each on two thirds of the slices or more."""
    z, y, x = np.ogrid[: case.slices, : case.matrix, : case.matrix]
    found = np.zeros((case.slices, case.matrix, case.matrix), np.uint8)
    rows = -(-case.segments // 5)
    columns = -(-case.segments // rows)
    for n in range(case.segments):
        row, column = divmod(n, columns)
        centre = (case.slices * (0.42 + 0.08 * (n % 3)), *(
            case.matrix * (i + 0.5) / count for i, count in ((row, rows), (column, columns))
        ))  # fmt: skip
        radii = (case.slices * 0.37, case.matrix * 0.4 / rows, case.matrix * 0.4 / columns)
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1
        found[inside] = n + 1
    return found


def frames(found: Labels) -> int:
    """How many slices of segments there are."""
    return sum(int((found == n).any(axis=(1, 2)).sum()) for n in range(1, int(found.max()) + 1))


def write_nrrd(path: Path, found: Labels) -> None:
    """Not compressed: the fastest that dcmqi reads."""
    s, r, c = found.shape
    header = (
        "NRRD0004", "type: unsigned char", "dimension: 3", "space: left-posterior-superior", f"sizes: {c} {r} {s}",
        f"space directions: (1,0,0) (0,1,0) (0,0,{SLICE_DISTANCE})", "kinds: domain domain domain",
        "encoding: raw", "space origin: (0,0,0)",
    )  # fmt: skip
    path.write_bytes("\n".join((*header, "\n")).encode() + found.tobytes())


def dcmqi_metadata(case: Case) -> dict[str, Any]:
    def code(value: str, scheme: str, meaning: str) -> dict[str, str]:
        return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}

    segments = [
        {
            "labelID": n,
            "SegmentDescription": f"Segment {n}",
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "Benchmark",
            "SegmentedPropertyCategoryCodeSequence": code(*ABNORMAL),
            "SegmentedPropertyTypeCodeSequence": code(*MASS),
            "recommendedDisplayRGBValue": COLOR,
        }
        for n in range(1, case.segments + 1)
    ]
    return {
        "ContentCreatorName": "Benchmark", "SeriesDescription": "Benchmark", "SeriesNumber": "300",
        "InstanceNumber": "1", "BodyPartExamined": "", "segmentAttributes": [segments],
    }  # fmt: skip


# -- contenders in Python, each in a process of its own: python -m benchmarks.objects --measure ... --------------------


def node_seg(folder: Path, output: Path) -> Measured:
    """As the worker does it: files are durable once written, and it lives on, so the time of its second object counts.
    Its memory is that above what it held before the first one."""
    from dicom_node.objects.base.context import ObjectContext
    from dicom_node.objects.seg import build_seg
    from storage.log.files import write_durable

    findings = findings_of(folder)

    def once(seed: str) -> None:
        write_durable(output, build_seg(findings, ObjectContext("BENCHMARK", seed)))

    meter = Meter()
    once("first")
    first = meter.read()
    meter = Meter()
    once("second")
    second = meter.read()
    growth = max(first.growth_bytes, second.growth_bytes)
    return replace(second, growth_bytes=growth, first_seconds=first.seconds)


def findings_of(folder: Path) -> Any:
    from inference.contract.findings import Algorithm, Code, Findings, Segment
    from inference.volumes.reading import read_volume

    volume = read_volume(file_blobs(sorted((folder / "images").iterdir())))
    found: Labels = np.load(folder / "labels.npy")
    segments = tuple(
        Segment(f"Segment {n}", found == n, Code(*ABNORMAL), Code(*MASS), COLOR, f"Segment {n}", f"2.25.{n}")
        for n in range(1, int(found.max()) + 1)
    )
    algorithm = Algorithm("Benchmark", "1", "dicom-node", "0" * 64, "none")
    return Findings(volume, (volume,), segments, algorithm, "Benchmark", datetime.now(UTC))


def highdicom_seg(folder: Path, output: Path) -> Measured:
    """The whole of it by highdicom and pydicom, from a label map, which is the fastest it takes."""
    import highdicom as hd

    findings = findings_of(folder)
    found: Labels = np.load(folder / "labels.npy")
    meter = Meter()
    sources = [read_header(frame.blob) for frame in findings.source.frames]
    algorithm = hd.AlgorithmIdentificationSequence("Benchmark", hd.sr.CodedConcept("1", "99X", "Other"), "1")
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=found,
        segmentation_type="BINARY",
        segment_descriptions=[
            hd.seg.SegmentDescription(
                n, f"Segment {n}", hd.sr.CodedConcept(*ABNORMAL), hd.sr.CodedConcept(*MASS), "AUTOMATIC", algorithm
            )
            for n in range(1, int(found.max()) + 1)
        ],
        series_instance_uid=hd.UID(),
        series_number=300,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="dicom-node",
        manufacturer_model_name="Benchmark",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(output, enforce_file_format=True)
    return meter.read()


IN_PYTHON: dict[tuple[str, bool], Callable[[Path, Path], Measured]] = {
    ("node", True): node_seg,
    ("highdicom", True): highdicom_seg,
    ("node", False): node_read,
    ("pydicom", False): pydicom_read,
    ("SimpleITK", False): simpleitk_read,
}


# -- the run -----------------------------------------------------------------------------------------------------------


def measure(case: Case, contender: str, folder: Path, output: Path) -> Measured:
    os.sync()  # what another contender has left to be written is not this one's to wait for
    if contender == "dcmqi":
        return dcmqi_seg(folder, output)
    command = [sys.executable, "-m", "benchmarks.objects", "--measure", case.name, contender, str(folder), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    if done.returncode != 0:
        raise Failed(f"{case.name}, {contender}: {done.stderr[-500:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def dcmqi_seg(folder: Path, output: Path) -> Measured:
    """itkimage2segimage itself, without the Python script that starts it; it reads a label map, and flushes nothing."""
    import dcmqi

    program = Path(dcmqi.__file__).parent / "bin" / "itkimage2segimage"
    command = [
        str(program), "--inputImageList", str(folder / "labels.nrrd"), "--inputMetadata", str(folder / "meta.json"),
        "--inputDICOMDirectory", str(folder / "images"), "--outputDICOM", str(output),
    ]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # What wait4 says of the memory counts that of the parent before exec, too.
    with Peak(partial(memory, "VmHWM", process.pid), SAMPLE_SECONDS) as resident:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{program.name} ended with {process.returncode}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, resident.highest, resident.highest)


def check(case: Case, output: Path, expected: int) -> None:
    """`expected`: frames of a SEG, or the sum over every 64th row and column of a volume."""
    if case.segments:
        found = int(dcmread(output, specific_tags=["NumberOfFrames"], stop_before_pixels=True).NumberOfFrames)
    else:
        found = int(np.load(output).sum(dtype=np.float64))
    if found != expected:
        raise Failed(f"{case.name}: {found} came out instead of {expected}")


def expectation(case: Case, folder: Path) -> int:
    if case.segments:
        return frames(np.load(folder / "labels.npy"))
    images = (dcmread(path).pixel_array for path in (folder / "images").iterdir())
    return sum(int(image[::64, ::64].sum(dtype=np.int64)) for image in images)


def run(options: argparse.Namespace, folder: Path) -> Results:
    results = Results()
    chosen = [CASES[name] for name in options.cases]
    expected = {}
    for case in chosen:
        prepare(case, folder / case.name)
        expected[case] = expectation(case, folder / case.name)
    for number in range(options.rounds):
        for case in chosen:
            turn = number % len(case.contenders)
            for contender in case.contenders[turn:] + case.contenders[:turn]:
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    output = Path(temporary) / ("seg.dcm" if case.segments else "volume.npy")
                    measured = measure(case, contender, folder / case.name, output)
                    check(case, output, expected[case])
                results.measured.setdefault(case.name, {}).setdefault(contender, []).append(measured)
                console.log(f"round {number + 1}, {case.name}, {contender}: {measured.seconds:.2f} s", highlight=False)
    return results


# -- what is printed ---------------------------------------------------------------------------------------------------


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["case", "with", "s", "least–most", "node ÷ it", "CPU s", "node ÷ it", "peak MB", "above start, MB"]
    rows = []
    for name, by_contender in results.measured.items():
        case = CASES[name]
        for contender in [c for c in case.contenders if c in by_contender]:
            found = by_contender[contender]
            each = sorted(m.seconds for m in found)
            ratios = [results.ratio(name, contender, of) for of in (lambda m: m.seconds, lambda m: m.cpu_seconds)]
            shown = ["" if contender == "node" or r is None else f"{r:.2f}" for r in ratios]
            cpu = statistics.median(m.cpu_seconds for m in found)
            peak = statistics.median(m.peak_bytes for m in found) / 2**20
            growth = statistics.median(m.growth_bytes for m in found) / 2**20
            rows.append([
                name if contender == "node" else "", contender, f"{statistics.median(each):.3f}",
                f"{each[0]:.3f}–{each[-1]:.3f}", shown[0], f"{cpu:.3f}", shown[1], f"{peak:.0f}", f"{growth:.0f}",
            ])  # fmt: skip
    return heads, rows


def notes(results: Results) -> list[str]:
    lines = [f"{name}: {CASES[name].description}" for name in results.measured]
    for name, by_contender in results.measured.items():
        firsts = [m.first_seconds for m in by_contender.get("node", []) if m.first_seconds is not None]
        if firsts:
            lines.append(f"{name}: the node's first one in a process took {statistics.median(firsts):.3f} s")
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--folder", default="/var/tmp", help="where images and results are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables, for benchmarks/README.md")
    parser.add_argument("--measure", nargs=4, metavar=("CASE", "CONTENDER", "FOLDER", "OUTPUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.measure:
        case, contender, folder, output = options.measure
        measured = IN_PYTHON[contender, CASES[case].segments > 0](Path(folder), Path(output))
        print(json.dumps(asdict(measured)))
        return 0
    with tempfile.TemporaryDirectory(prefix="dicom-node-bench-", dir=options.folder) as folder:
        try:
            results = run(options, Path(folder))
        except Failed as error:
            console.print(f"[red]The run is worthless:[/] {error}", highlight=False)
            return 1
    found = goals(results)
    tables = [("Made and read", *table(results)), ("Goals", *verdicts(found))]
    legend = notes(results)
    for title, heads, rows in tables:
        show(title, heads, rows)
    console.print("\n".join(legend), highlight=False)
    console.print(f"Medians of {options.rounds} rounds; {versions()}", highlight=False)
    if options.json:
        options.json.write_text(json.dumps({
            "machine": versions(), "rounds": options.rounds,
            "measured": {c: {k: [asdict(m) for m in ms] for k, ms in by.items()} for c, by in results.measured.items()},
            "goals": [{**asdict(g), "met": g.met} for g in found],
        }, indent=1))  # fmt: skip
    if options.markdown:
        text = "\n".join(f"**{title}**\n\n{markdown(heads, rows)}" for title, heads, rows in tables)
        lines = "\n".join(f"- {line}" for line in legend)
        options.markdown.write_text(f"{text}\n{lines}\n\nMedians of {options.rounds} rounds; {versions()}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
