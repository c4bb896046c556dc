"""What an analysis costs, stage by stage: `make bench-applications`.

Every study is analysed in a process of its own as a worker does it: series recognised and bound, images read, checked,
segmented, measured, and the result objects made and written durably. Printed are medians over the rounds, and how often
as long it takes as reading the same files with pydicom, measured in the same process. Models are loaded before the
clock starts where the second of two analyses counts: a worker keeps them warm.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydicom import dcmread

from benchmarks.peak import memory
from benchmarks.report import Failed, console, markdown, show, versions
from dicom_node.demo.simulator.limb_study import write_limb_patient
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.build import build_objects
from inference.contract.application import Application, load_application
from inference.contract.binding import bind
from inference.contract.inputs import input_key
from inference.contract.manifest import load_manifest
from inference.contract.series_input import SeriesInput
from inference.engine.devices import resolve_devices
from inference.engine.models import TorchEngine
from inference.series.recogniser import read_headers, recognise_headers
from storage.blobs import file_blobs
from storage.log.files import write_durable

LIMIT_SECONDS = 900.0
SEED = 7
TIME_POINTS = 2


@dataclass(frozen=True)
class Case:
    """`series` of a simulated limb study, all of them where it is empty, at `time_points` time points."""

    name: str
    application: str
    series: tuple[str, ...] = ()
    time_points: int = 1


CASES = {
    case.name: case
    for case in (
        Case("mass, T1w alone", "soft_tissue_mass", ("t1w",)),
        Case("mass, nine series", "soft_tissue_mass"),
        Case("SBRT, one time point", "extremity_sts_sbrt"),
        Case("SBRT, two time points", "extremity_sts_sbrt", time_points=TIME_POINTS),
    )
}


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float
    peak_bytes: int  # resident memory of the process


@dataclass(frozen=True)
class Measured:
    """One analysis. `first_seconds` is that of the process's first one, which loads libraries and the model."""

    stages: list[Stage]
    first_seconds: float
    pydicom_seconds: float

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


@dataclass
class Results:
    measured: dict[tuple[str, str], list[Measured]] = field(default_factory=dict)  # by case and device


# -- in a process of its own: python -m benchmarks.applications --measure ... ------------------------------------------


class Clock:
    """Stages one after the other, each with the most memory that the process held."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._name = ""

    def enter(self, name: str, _fraction: float = 0.0) -> None:
        """Ends the stage before. A `inference.contract.application.Progress`."""
        if name == self._name:
            return
        self.leave()
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident memory counts anew
        self._name, self._start = name, time.perf_counter()

    def leave(self) -> None:
        if self._name:
            self.stages.append(Stage(self._name, time.perf_counter() - self._start, memory("VmHWM")))
        self._name = ""


def analyse(case: Case, device: str, folder: Path) -> Measured:
    manifest = load_manifest(case.application, case.application, None)
    application, engine = load_application(manifest), TorchEngine(device)
    start = time.perf_counter()
    once(case, application, engine, folder)
    first = time.perf_counter() - start
    clock = once(case, application, engine, folder)
    start = time.perf_counter()
    for path in sorted(p for p in folder.rglob("*.dcm")):
        dcmread(path).pixel_array  # noqa: B018 - decoded when it is asked for
    return Measured(clock.stages, first, time.perf_counter() - start)


def once(case: Case, application: Application, engine: TorchEngine, folder: Path) -> Clock:
    clock = Clock()
    clock.enter("recognising")
    inputs: dict[str, SeriesInput] = {}
    *earlier, latest = sorted(folder.iterdir())
    for time_point, study in ((0, latest), *enumerate(earlier, 1)):
        paths = [sorted(series.iterdir()) for series in sorted(study.iterdir())]
        series = [recognise_headers(read_headers(file_blobs(files))) for files in paths]
        files_of = {s.series_instance_uid: tuple(files) for s, files in zip(series, paths, strict=True)}
        binding = bind(application.manifest.inputs, series)
        if not binding.accepted:
            raise Failed(f"{case.name}: {binding.reason}")
        for name, uid in binding.inputs.items():
            key = input_key(name, time_point)
            inputs[key] = SeriesInput(name, uid, file_blobs(files_of[uid]), time_point)
    findings = application.run(inputs, engine, clock.enter)
    if not findings.segments:
        raise Failed(f"{case.name}: nothing was found")
    clock.enter("making objects")
    with tempfile.TemporaryDirectory() as temporary:
        for n, built in enumerate(build_objects(findings, ObjectContext("BENCHMARK", "seed"))):
            write_durable(Path(temporary) / f"{n}.dcm", built.dataset)
        clock.leave()
    return clock


# -- the run -----------------------------------------------------------------------------------------------------------


def prepare(case: Case, folder: Path) -> None:
    """`folder`/study/series/*.dcm, the studies in the order of their time points."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        for n, (written, _) in enumerate(write_limb_patient(Path(temporary), SEED, case.time_points)):
            for name, series in written.series.items():
                if not case.series or name in case.series:
                    target = folder / str(n) / name
                    target.mkdir(parents=True)
                    for path in series.paths:
                        path.rename(target / f"{path.stem}.dcm")


def measure(case: Case, device: str, folder: Path) -> Measured:
    command = [sys.executable, "-m", "benchmarks.applications", "--measure", case.name, device, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    if done.returncode != 0:
        raise Failed(f"{case.name} on {device}: {done.stderr[-500:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured([Stage(**stage) for stage in found.pop("stages")], **found)


def run(options: argparse.Namespace, folder: Path) -> Results:
    devices = dict.fromkeys(["cpu", *resolve_devices("auto")[:1]])
    results = Results()
    chosen = [CASES[name] for name in options.cases]
    for n, case in enumerate(chosen):
        prepare(case, folder / str(n))
    for number in range(options.rounds):
        for n, case in enumerate(chosen):
            for device in devices:
                measured = measure(case, device, folder / str(n))
                results.measured.setdefault((case.name, device), []).append(measured)
                told = f"round {number + 1}, {case.name}, {device}: {measured.seconds:.1f} s"
                console.log(told, highlight=False)
    return results


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    heads = ["case", "with", "what", "s", "peak MB", "× reading with pydicom"]
    rows = []
    for (case, device), found in results.measured.items():
        reading = statistics.median(m.pydicom_seconds for m in found)
        for n, stage in enumerate(found[0].stages):
            seconds = statistics.median(m.stages[n].seconds for m in found)
            peak = statistics.median(m.stages[n].peak_bytes for m in found) / 2**20
            rows.append([case, device, stage.name, f"{seconds:.2f}", f"{peak:.0f}", f"{seconds / reading:.1f}"])
        total = statistics.median(m.seconds for m in found)
        peak = max(stage.peak_bytes for m in found for stage in m.stages) / 2**20
        rows.append([case, device, "all", f"{total:.2f}", f"{peak:.0f}", f"{total / reading:.1f}"])
        first = statistics.median(m.first_seconds for m in found)
        rows.append([case, device, "all, the first time", f"{first:.2f}", "", f"{first / reading:.1f}"])
    return heads, rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.applications", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, device, folder = options.measure
        print(json.dumps(asdict(analyse(CASES[name], device, Path(folder)))))
        return
    with tempfile.TemporaryDirectory(prefix="dicom-node-bench-") as temporary:
        results = run(options, Path(temporary))
    heads, rows = table(results)
    show(f"Analyses of simulated limb studies, {options.rounds} rounds. {versions()}", heads, rows)
    if options.markdown:
        options.markdown.write_text(markdown(heads, rows))


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"The benchmark is void: {error}")
