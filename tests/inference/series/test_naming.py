"""The names of series for people."""

import pytest

from inference.series.naming import name_of_series


@pytest.mark.parametrize(
    ("number", "description", "name"),
    [
        (5, "T1 TSE TRA", "series 5 'T1 TSE TRA'"),
        (5, "", "series 5"),
        (None, "T1 TSE  TRA ", "series 'T1 TSE TRA'"),
        (None, "", "a series without number"),
        (0, "\x1b[2Jred\x00", "series 0 '\\x1b[2Jred\\x00'"),
        (7, "x" * 200, f"series 7 '{'x' * 61}...'"),
    ],
)
def test_a_series_is_named_by_number_and_description(number: int | None, description: str, name: str) -> None:
    assert name_of_series(number, description) == name
