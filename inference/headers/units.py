"""Units: the codes of UCUM, and the texts in which scanners write them.

A unit is parsed, not looked up, because one unit has many spellings: the diffusivity 10*-6.mm2/s is also um2/s and
um2.s-1, and RescaleType says "10^-6 mm^2/s", "1E-6 mm2/s" or "x10-6 mm²/s".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import pi

Dimension = tuple[tuple[str, int], ...]  # powers of base units, such as (("m", 2), ("s", -1))

PREFIXES = {"": 1.0, "k": 1e3, "d": 1e-1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "M": 1e6, "G": 1e9}
METRIC: dict[str, tuple[float, dict[str, int]]] = {  # units that take a prefix, in base units
    "m": (1.0, {"m": 1}),
    "s": (1.0, {"s": 1}),
    "g": (1.0, {"g": 1}),
    "l": (1e-3, {"m": 3}),
    "L": (1e-3, {"m": 3}),
    "Hz": (1.0, {"s": -1}),
    "Bq": (1.0, {"s": -1}),
    "T": (1.0, {"T": 1}),
    "rad": (1.0, {"rad": 1}),
    "mol": (1.0, {"mol": 1}),
}
PLAIN: dict[str, tuple[float, dict[str, int]]] = {  # units without a prefix
    "%": (1e-2, {}),
    "[ppth]": (1e-3, {}),
    "[ppm]": (1e-6, {}),
    "[hnsf'U]": (1.0, {"HU": 1}),
    "deg": (pi / 180, {"rad": 1}),
    "min": (60.0, {"s": 1}),
    "h": (3600.0, {"s": 1}),
}
# Texts that state no unit. US is "unspecified"; in small letters it is microseconds.
NO_UNIT = frozenset({"", "UNSPECIFIED", "NORMALIZED", "NORMALISED", "NONE", "OD", "ED", "EDW"})
IN_WORDS = {
    "percent": "%", "pct": "%", "ppm": "[ppm]", "hu": "[hnsf'U]", "hu_mod": "[hnsf'U]",
    "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "msec": "ms", "msecs": "ms", "millisecond": "ms", "milliseconds": "ms",
    "usec": "us", "microsecond": "us", "microseconds": "us",
    "hertz": "Hz", "hz": "Hz", "khz": "kHz", "degree": "deg", "degrees": "deg",
}  # fmt: skip
SIGNS = str.maketrans("µμ⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻−·×", "uu0123456789+--.x")
POWER_OF_TEN = r"10(?:[*^](?P<star>[+-]?\d+)|(?P<bare>[+-]\d+))"
NUMBER = r"(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"
ATOM = r"(?P<atom>\[[^\]]+\]|%|[A-Za-z]+)(?P<exponent>[+-]?\d+)?"
TOKEN = re.compile(f"(?P<operator>[./()])|{POWER_OF_TEN}|{NUMBER}|{ATOM}")
AMBIGUOUS = re.compile(r"10[eE][+-]?\d")  # 10E-6 may mean ten millionths or one


@dataclass(frozen=True)
class Unit:
    """A unit: its `text` as it was stated, and `factor` and `dimension` in base units."""

    text: str
    factor: float
    dimension: Dimension

    @property
    def arbitrary(self) -> bool:
        """True for the unit 1, which scanners also give to numbers that have no unit."""
        return not self.dimension and self.factor == 1.0

    def converts_to(self, other: "Unit") -> bool:
        return self.dimension == other.dimension

    def per(self, other: "Unit") -> float:
        """Return the number by which a value in this unit is multiplied to be one in `other`."""
        return self.factor / other.factor


@cache
def unit_of(text: str) -> Unit | None:
    """Return the unit that a UCUM code or a RescaleType states; None if it states none, or none that is known here."""
    stated = text.strip(" \0")
    if stated == "US" or stated.upper() in NO_UNIT or AMBIGUOUS.match(_spelled(stated)):
        return None
    for spelling in (stated, _spelled(stated), _spelled(stated).lower()):
        try:
            factor, powers = _Parser(re.sub(r"\{[^}]*\}", "", spelling) or "1").parsed()
        except ValueError:
            continue
        return Unit(stated, factor, tuple(sorted((base, power) for base, power in powers.items() if power)))
    return None


def _spelled(text: str) -> str:
    """Return a text of a scanner in the spelling of UCUM."""
    text = re.sub(r"\^\(([+-]?\d+)\)", r"^\1", text.translate(SIGNS)).replace("**", "^")
    text = re.sub(r"^[*x]\s*(?=\d)", "", text.strip("()[] ") if "]" not in text[1:-1] else text.strip())
    text = re.sub(r"(?<=[A-Za-z0-9])\s*[*x.]\s*(?=10[*^+-]|1[eE])", ".", text)  # mm2/s * 10-6
    text = re.sub(r"(?<=[A-Za-z])(\^|\*\*?)(?=[+-]?\d)", "", text)  # mm^2
    text = re.sub(r"(?<=\d)\s*[*x]\s*(?=[A-Za-z])", ".", text)  # 10-6 * mm2
    text = re.sub(r"\s*([/.])\s*", r"\1", text)
    text = re.sub(r"\s+", ".", text.strip())
    return re.sub(r"[A-Za-z_]+", lambda word: IN_WORDS.get(word[0].lower(), word[0]), text)


class _Parser:
    """A parser of one code: terms with a dot or a slash between them, where a slash divides by the next term alone."""

    def __init__(self, code: str) -> None:
        self._tokens = list(_tokens(code))
        self._at = 0

    def parsed(self) -> tuple[float, dict[str, int]]:
        """Return factor and powers of base units. Raises ValueError if the code is none of UCUM that is known here."""
        found = self._product()
        if self._at < len(self._tokens):
            raise ValueError("a part is left over")
        return found

    def _product(self) -> tuple[float, dict[str, int]]:
        factor, powers = 1.0, dict[str, int]()
        sign = self._operator("/")
        while True:
            value, of = self._term()
            factor = factor / value if sign else factor * value
            for base, power in of.items():
                powers[base] = powers.get(base, 0) + (-power if sign else power)
            if self._at < len(self._tokens) and "operator" not in self._tokens[self._at]:
                continue  # "100g" is one term
            if self._operator("/"):
                sign = True
            elif self._operator("."):
                sign = False
            else:
                return factor, powers

    def _operator(self, which: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].get("operator") == which
        self._at += found
        return found

    def _term(self) -> tuple[float, dict[str, int]]:
        if self._operator("("):
            inside = self._product()
            if not self._operator(")"):
                raise ValueError("a bracket is not closed")
            return inside
        if self._at == len(self._tokens) or "operator" in self._tokens[self._at]:
            raise ValueError("a term is missing")
        token = self._tokens[self._at]
        self._at += 1
        if power := token.get("star") or token.get("bare"):
            return 10.0 ** int(power), {}
        if "number" in token:
            return float(token["number"]), {}
        exponent = int(token.get("exponent", 1))
        value, of = _atom(token["atom"])
        return value**exponent, {base: power * exponent for base, power in of.items()}


def _tokens(code: str) -> Iterator[dict[str, str]]:
    at = 0
    while at < len(code):
        found = TOKEN.match(code, at)
        if found is None:
            raise ValueError("a sign that is none of UCUM")
        yield {name: value for name, value in found.groupdict().items() if value is not None}
        at = found.end()


def _atom(name: str) -> tuple[float, dict[str, int]]:
    if name in PLAIN:
        return PLAIN[name]
    for prefix, factor in PREFIXES.items():
        if name.startswith(prefix) and (metric := METRIC.get(name.removeprefix(prefix))):
            return factor * metric[0], metric[1]
    raise ValueError("a unit that is not known here")
