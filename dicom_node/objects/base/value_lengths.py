"""The greatest lengths of values, in characters (PS3.5 6.2), and names that are short and yet distinct."""

from collections.abc import Sequence
from itertools import accumulate

SH_LENGTH = 16
LO_LENGTH = 64
LABEL_LENGTH = 12  # with side and edition, a label fits into the 20 characters that lists of series show


def short_names(names: Sequence[str], longest: int) -> list[str]:
    """Return a name of at most `longest` characters for each of `names`, all distinct, whatever their case.

    A name that is too long is cut, after a word if this leaves half of the room or more. If this does not tell it from
    the others, its words are cut; only if this does not either, it gets a number.
    """
    forms = [[name.strip(), _first_words(name, longest), _cut_words(name, longest)] for name in names]
    chosen: list[str] = []
    for n, own in enumerate(forms):
        others = {form[depth].lower() for m, form in enumerate(forms) if m != n for depth in range(3)}
        fitting = [form for form in own if form and len(form) <= longest] or ["?"]
        alone = (form for form in fitting if form.lower() not in others)
        chosen.append(_numbered(next(alone, fitting[0]), chosen, longest))
    return chosen


def _first_words(name: str, longest: int) -> str:
    starts = accumulate(name.split(), lambda start, word: f"{start} {word}")
    found = max((start for start in starts if len(start) <= longest), key=len, default="")
    return found if 2 * len(found) >= longest else name[:longest].strip()


def _cut_words(name: str, longest: int) -> str:
    """Shorten the longest words letter by letter until the name fits."""
    words = name.split()
    while len(" ".join(words)) > longest and any(len(word) > 1 for word in words):
        n = max(range(len(words)), key=lambda k: len(words[k]))
        words[n] = words[n][:-1]
    return " ".join(words)[:longest].strip()


def _numbered(name: str, taken: Sequence[str], longest: int) -> str:
    found, n = name, 1
    while found.lower() in {one.lower() for one in taken}:
        n += 1
        found = f"{name[: longest - len(str(n)) - 1]} {n}"
    return found
