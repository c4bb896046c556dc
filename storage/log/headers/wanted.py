"""The elements of a dataset that a reader is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

from storage.log.headers.encodings import BIG, LITTLE, PIXEL_DATA

LARGEST_ELEMENT = 2**14  # bytes of an element that is kept, unless a larger size is asked for


@dataclass(frozen=True, eq=False)
class Wanted:
    """The elements that a reader keeps, by the numbers that each byte order reads for their tags.

    `sizes` has the size of those that may be larger than LARGEST_ELEMENT.
    """

    little: Mapping[int, int]
    big: Mapping[int, int]
    sizes: Mapping[int, int]

    @classmethod
    def of(cls, tags: frozenset[int], sizes: Mapping[int, int]) -> "Wanted":
        every = tags | {*PIXEL_DATA}
        return cls({LITTLE.key(tag): tag for tag in every}, {BIG.key(tag): tag for tag in every}, sizes)
