import pytest

from inference.headers.units import Unit, unit_of


def known(text: str) -> Unit:
    found = unit_of(text)
    assert found is not None, text
    return found


@pytest.mark.parametrize(
    ("texts", "unit", "factor"),
    [
        (
            "um2/s|10*-6.mm2/s|10-6.mm2/s|10*-12.m2/s|um2.s-1|10^-6 mm^2/s|1E-6 mm2/s|x10-6 mm²/s|µm²/s|10-6 MM2/S"
            "|mm2/s*10-6|mm²/s·10⁻⁶|(10^-6 mm^2/sec)|10**-6 mm2/s|10^(-6) mm2/s|0.000001 mm2/s",
            "um2/s",
            1.0,
        ),
        ("10*-3.mm2/s|10-3 mm2/s|10^-3 mm2 s^-1|1e-3mm2/s|um2/ms|10^-3*mm2/s", "um2/s", 1e3),
        ("mm2/s|mm^2/s|MM2/S|mm2.s-1|mm2/sec", "um2/s", 1e6),
        ("ms|msec|MS|milliseconds|10*-3.s|0.001 s", "s", 1e-3),
        ("us|usec", "s", 1e-6),
        ("Hz|/s|1/s|s-1|10*-3/ms|HZ", "/s", 1.0),
        ("%|PCT|percent|10*-2|%{fat}", "1", 1e-2),
        ("[ppm]|ppm", "1", 1e-6),
        ("mrad", "rad", 1e-3),
        ("HU|[hnsf'U]", "HU", 1.0),
        ("ml/min/100g|ml/(100.g.min)|ml/100.g/min|mL/min/100g", "ml/min/g", 1e-2),
    ],
)
def test_spellings_of_one_unit(texts: str, unit: str, factor: float) -> None:
    for text in texts.split("|"):
        assert known(text).converts_to(known(unit)), text
        assert known(text).per(known(unit)) == pytest.approx(factor), text


@pytest.mark.parametrize(
    "text", ["", "US", "normalized", "OD REL", "BQML", "10E-6 mm2/s", "furlong", "a.u.", "mm2/", "s//m"]
)
def test_texts_that_state_no_unit(text: str) -> None:
    assert unit_of(text) is None


def test_a_time_does_not_convert_to_a_rate() -> None:
    assert not known("ms").converts_to(known("/s"))
    assert not known("1").converts_to(known("ms"))


def test_one_is_an_arbitrary_unit() -> None:
    assert [known(text).arbitrary for text in ("1", "{counts}", "%", "ms")] == [True, True, False, False]
