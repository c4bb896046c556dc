"""Who may read the wall clock: intervals are measured by `dicom_node.runtime.clock`."""

import re

from tests.house.source import modules, place

WALL_CLOCK = re.compile(r"datetime\.now\(|\btime\.time\(|utcnow\(")
RECORDS_ONLY = {
    "dicom_node/runtime/clock.py",  # defines the clocks
    "dicom_node/complete/preview.py",  # shows what would be decided, and decides nothing
    "dicom_node/index/indexer.py",  # the mark of the index has both clocks
    "dicom_node/index/journal_filing.py",  # the time of a frame that states none
    "dicom_node/route/sweep.py",  # the time of the decision
    "dicom_node/route/reporting.py",  # how long a study was quiet before the process began
}


def test_roles_do_not_measure_by_the_wall_clock() -> None:
    roles = modules(
        *(f"dicom_node/{folder}" for folder in ("complete", "deliver", "index", "route", "runtime", "work"))
    )
    found = {place(path) for path in roles if WALL_CLOCK.search(path.read_text(encoding="utf-8"))}
    assert found <= RECORDS_ONLY
    scheduler = next(path for path in modules("dicom_node") if place(path) == "dicom_node/schedule.py")
    assert not WALL_CLOCK.search(scheduler.read_text(encoding="utf-8"))
