"""The two hashes of an instance: of its pixels, and of everything else in its dataset."""

import hashlib
from collections import deque

from storage.log.files import BytesLike
from storage.records.instances import ContentHashes

MOST_PIXEL_ELEMENTS = 64  # of one dataset


class ContentHasher:
    """A hasher of bytes that arrive in parts, with marks where pixels begin and end.

    Images have one pixel data element. If a dataset has more than MOST_PIXEL_ELEMENTS, the later ones count as other
    bytes, so that no dataset makes the marks grow.
    """

    def __init__(self) -> None:
        self._pixels, self._rest = hashlib.sha256(), hashlib.sha256()
        self._marks: deque[int] = deque()
        self._in_pixels = self._has_pixels = False
        self._noted = 0  # the number of marks so far
        self._at = 0

    def mark(self, position: int) -> None:
        """Note that pixels begin or end at this position of the dataset, which is not before the last one."""
        self._has_pixels = True
        if self._noted < 2 * MOST_PIXEL_ELEMENTS:
            self._noted += 1
            self._marks.append(position)

    def take(self, data: BytesLike, begin: int, end: int) -> None:
        """Hash what follows the bytes before, up to `end`, from data that begin at `begin` of the dataset."""
        view = memoryview(data)
        while True:
            while self._marks and self._marks[0] == self._at:
                self._marks.popleft()
                self._in_pixels = not self._in_pixels
            if self._at >= end:
                return
            upto = min(end, self._marks[0]) if self._marks else end
            (self._pixels if self._in_pixels else self._rest).update(view[self._at - begin : upto - begin])
            self._at = upto

    def hashes(self) -> ContentHashes:
        return ContentHashes(self._pixels.hexdigest() if self._has_pixels else "", self._rest.hexdigest())
