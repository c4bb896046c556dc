"""Dates and times of studies, from the headers of their images."""

from dataclasses import replace
from datetime import date

from pydicom.dataset import Dataset

from dicom_node.read.visits import acquisition_date, visit_of


def test_dates_and_times_of_studies() -> None:
    ds = Dataset()
    assert (visit_of(ds).day, acquisition_date(ds)) == (None, None)
    ds.AcquisitionDateTime = "20260302101112.5+0100"
    assert (visit_of(ds).day, visit_of(ds).time) == (date(2026, 3, 2), "")
    ds.StudyDate, ds.StudyTime = "20260301", "10"
    assert (visit_of(ds).day, visit_of(ds).time, acquisition_date(ds)) == (
        date(2026, 3, 1),
        "100000.000000",
        date(2026, 3, 2),
    )
    before = replace(visit_of(ds), time="095959.999000")
    assert before.is_before(visit_of(ds)) is True
    assert visit_of(ds).is_before(before) is False
    assert before.is_before(before) is None
