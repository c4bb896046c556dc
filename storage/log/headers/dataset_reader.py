"""A reader of the top-level elements of a dataset, whose bytes come in one part or in many.

Values are not decoded, and large ones are passed over, so the cost grows with the number of elements alone. Datasets
that violate the standard are read as far as their structure can be followed: delimiters that are missing or out of
place, unknown VRs, elements in any order. What follows a place where the structure is lost is not read.
"""

import struct

from storage.log.files import BytesLike
from storage.log.headers.content_hashes import ContentHasher
from storage.log.headers.encodings import (
    BIG,
    ITEM,
    ITEM_END,
    LITTLE,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    UNKNOWN_HEAD,
    ByteOrder,
    MoreNeeded,
    StructureLost,
)
from storage.log.headers.wanted import LARGEST_ELEMENT, Wanted

LARGEST_ELEMENTS = 2**21  # bytes of all those of one dataset that are not small
_SMALL = 2**8  # bytes
_LOOKAHEAD = 2**16  # bytes up to which the length of an odd element is checked by what follows it
_MOST_ODD = 10_000  # elements of one dataset, because each of them costs ten times as much as another one
_LARGEST_IMPLICIT = 2**24  # bytes of an element without VR that may follow another one
_NEAR = 0x80 << 16  # from a tag to the next one: larger steps are no evidence
_BARE_HEAD = struct.Struct("<LL")  # tag, length: an element in implicit VR
_LAST_OF_HEADER = 0x0040FFFF  # what repeats it further behind may be part of a sequence whose length is wrong
_DEEPEST = 1_000  # sequences and items, each inside the one before
_IN_ITEM, _IMPLICIT = 1, 2  # bits of a level: inside an item and not a sequence; in implicit VR


class DatasetReader:
    """The reader of one dataset.

    `elements` has the wanted elements by tag, encoded as they came; one of an odd VR is encoded as UN. `left_out` has
    those that were too large or cut off, and `broken_at` the tag of the element from which on nothing could be read.
    """

    def __init__(self, wanted: Wanted, implicit: bool, little: bool, hasher: ContentHasher | None = None) -> None:
        self.implicit = implicit
        self.elements: dict[int, bytes] = {}
        self.left_out: set[int] = set()
        self.broken_at: int | None = None
        self.has_pixels = False
        self._violates, self._before_pixels = False, -1  # the latter is the number of elements
        self._order: ByteOrder = LITTLE if little else BIG
        self._wanted = wanted.little if little else wanted.big
        self._sizes = wanted.sizes
        self._hasher = hasher
        self._delimiters = {self._order.key(tag): tag for tag in (ITEM, ITEM_END, SEQUENCE_END)}
        self._carry: bytes = b""  # the beginning of an element whose rest has not come
        self._begin = 0  # the position of the carry in the dataset
        self._position = 0  # of the next element; beyond what has come, if a value is passed over
        self._levels: list[int] = []  # the open sequences and items of undefined length
        self._in_pixels = False  # the outermost of them is pixel data
        self._sequence_end = -1  # where the last nested sequence of defined length ended
        self._odd, self._room, self._final = 0, LARGEST_ELEMENTS, False

    @property
    def is_regular(self) -> bool:
        """True unless the dataset violates the standard in a way that other readers may not follow."""
        return not self._violates and (not self.has_pixels or self._before_pixels == len(self.elements))

    def update(self, part: BytesLike, final: bool = False) -> None:
        """Read a part that follows the one before. Nothing follows the `final` one, which may be empty."""
        data = b"".join((self._carry, part)) if self._carry else part
        self._final = final
        position, size = self._position - self._begin, len(data)
        if self.broken_at is None:
            if position < size:
                position = self._read(data, position, size)
            if final and (position != size or self._levels):
                self.broken_at = self.broken_at or self._tag_at(data, position)
        used = size if final or self.broken_at is not None else min(position, size)
        if self._hasher is not None:
            self._hasher.take(data, self._begin, self._begin + used)
        self._position = self._begin + position
        self._begin += used
        self._carry = bytes(data[used:])

    def _read(self, data: BytesLike, position: int, size: int) -> int:
        """Read elements; return the position of the first one that is not complete, or the end of the last one."""
        try:
            if self._begin + position == 0:
                self.implicit = self._looks_implicit(data, size)
            while position < size:
                before = position
                if self._levels:
                    position = self._inside(data, position, size)
                    if self._levels:
                        break
                    self._close_pixels(position)
                if self.implicit:
                    position = self._read_implicit(data, position, size)
                else:
                    position = self._read_explicit(data, position, size)
                if position == before:
                    break
        except MoreNeeded:
            pass
        except StructureLost as broken:
            self.broken_at = broken.tag
        return position

    def _read_explicit(self, data: BytesLike, position: int, size: int) -> int:
        order, wanted, elements = self._order, self._wanted, self.elements
        short_vrs, long_vrs, long = order.short_vrs, order.long_vrs, order.long.unpack_from
        head = order.head.unpack_from
        start = position
        try:
            while position < size:
                start = position
                tag, vr, length = head(data, position)
                if vr in short_vrs:
                    end = position + 8 + length
                elif vr in long_vrs and not length and (length := long(data, position + 8)[0]) != UNDEFINED:
                    end = position + 12 + length
                else:
                    position = self._read_odd(data, start, size)
                    if self._levels or position == start:
                        return position
                    continue
                if tag in wanted:
                    name = wanted[tag]
                    if length < _SMALL and end <= size and name not in elements and name < PIXEL_DATA[0]:
                        elements[name] = bytes(data[start:end])  # as nearly all of them
                    else:
                        self._keep(name, data, start, (end - length, end))
                position = end
        except (struct.error, MoreNeeded):
            return start
        return position

    def _read_implicit(self, data: BytesLike, position: int, size: int) -> int:
        wanted, delimiters = self._wanted, self._delimiters
        unpack = _BARE_HEAD.unpack_from
        start = position
        try:
            while position < size:
                start = position
                tag, length = unpack(data, position)
                if length == UNDEFINED or tag in delimiters or not tag:
                    position = self._read_odd(data, start, size)
                    if self._levels or position == start:
                        return position
                    continue
                end = position + 8 + length
                if tag in wanted:
                    self._keep(wanted[tag], data, start, (end - length, end))
                position = end
        except (struct.error, MoreNeeded):
            return start
        return position

    # -- elements that are not simple ----------------------------------------------------------------------------------

    def _keep(self, name: int, data: BytesLike, start: int, value: tuple[int, int], odd: bool = False) -> None:
        """Keep a wanted element, unless it is an empty repetition. Raises MoreNeeded if it is not here yet."""
        begin, end = value
        is_first = name not in self.elements and name < PIXEL_DATA[0]
        if is_first and not odd and end - begin < _SMALL and end <= len(data):
            self.elements[name] = bytes(data[start:end])
        elif name >= PIXEL_DATA[0]:
            self._open_pixels(begin)
            self._in_pixels = False
            self._mark(end)
        elif self._is_settled(name) or (begin == end and name in self.elements):
            return
        elif end - begin > min(self._sizes.get(name, LARGEST_ELEMENT), self._room):
            self.left_out.add(name)
        elif end <= len(data):
            self._room -= end - begin
            head = UNKNOWN_HEAD.pack(name >> 16, name & 0xFFFF, b"UN", 0, end - begin)
            self.elements[name] = head + bytes(data[begin:end]) if odd else bytes(data[start:end])
        elif self._final:
            self.left_out.add(name)
        else:
            raise MoreNeeded

    def _is_settled(self, name: int) -> bool:
        """Return True if an element was kept that no later one replaces, because that would be far out of its place."""
        return name in self.elements and (self.has_pixels or next(reversed(self.elements)) > _LAST_OF_HEADER)

    def _read_odd(self, data: BytesLike, start: int, size: int) -> int:
        """Read an element of undefined length, a delimiter out of place, or an element of an odd VR.

        Return the position that follows; the levels are open if that is inside the element. Raises MoreNeeded and
        StructureLost.
        """
        tag, vr, length = self._order.head.unpack_from(data, start)
        if tag in self._delimiters:
            self._violates = True
            self._levels = [_IMPLICIT if self.implicit else 0]
            position = self._delimiter(tag, data, start, size)
            if self._levels and not self._levels[-1] & _IN_ITEM:
                self._levels = []
            return position
        value, length, vr = self._measure(data, start, size, self.implicit)
        name = self._wanted.get(tag)
        if length == UNDEFINED:
            implicit = self.implicit or vr not in self._order.long_vrs or vr == self._order.un
            return self._read_undefined(data, start, value, name, implicit)
        if name is not None:
            self._keep(name, data, start, (value, value + length), odd=True)
        return value + length

    def _read_undefined(self, data: BytesLike, start: int, value: int, name: int | None, implicit: bool) -> int:
        """Read an element of undefined length. Return `start` if it is wanted and has not come completely."""
        if name is not None and name >= PIXEL_DATA[0]:
            self._open_pixels(value)
        if name is not None and self._is_settled(name):
            name = None
        self._levels = [_IMPLICIT if implicit else 0]
        position = self._inside(data, value, len(data))
        if name is None or self._in_pixels:
            if not self._levels:
                self._close_pixels(position)
        elif not self._levels and position - start <= min(LARGEST_ELEMENT, self._room):
            self._room -= position - start
            self.elements[name] = bytes(data[start:position])
        elif self._levels and not self._final and len(data) - start <= LARGEST_ELEMENT:
            self._levels = []
            return start
        else:
            self.left_out.add(name)
        return position

    def _measure(self, data: BytesLike, start: int, size: int, implicit: bool) -> tuple[int, int, int]:
        """Return where the value of an element begins, its length, and its VR."""
        order = self._order
        tag, vr, length = order.head.unpack_from(data, start)
        if not tag:  # zeros
            raise StructureLost(tag)
        if implicit:
            return start + 8, order.long.unpack_from(data, start + 4)[0], vr
        if vr in order.short_vrs:
            return start + 8, length, vr
        if vr in order.long_vrs and not length:
            return start + 12, order.long.unpack_from(data, start + 8)[0], vr
        return (*self._likely(data, start, size), vr)

    def _likely(self, data: BytesLike, start: int, size: int) -> tuple[int, int]:
        """Return where the value of an element of an odd VR begins, and its length, by what follows it.

        Future VRs have a length of 32 bits (PS3.5 6.2), others were seen with 16 bits. An element may also be encoded
        without VR.
        """
        long = self._order.long.unpack_from
        tag, _, length = self._order.head.unpack_from(data, start)
        self._odd += 1
        self._violates = True
        if self._odd > _MOST_ODD:
            raise StructureLost(self._order.key(tag))
        letters = bytes(data[start + 4 : start + 6])
        short, bare = (start + 8, length), (start + 8, int(long(data, start + 4)[0]))
        full = [(start + 12, int(long(data, start + 8)[0]))] if start + 12 <= size else []
        if not full and not self._final:
            raise MoreNeeded
        is_vr = letters.isalpha() and letters.isupper()
        if is_vr and full and full[0][1] == UNDEFINED:
            return full[0]
        readings = [*full, short, bare] if is_vr else [bare, short, *full]
        for reading in readings:
            if reading[1] <= _LOOKAHEAD and self._is_followed(data, tag, sum(reading), reading == bare):
                return reading
        for reading in readings:
            if _LOOKAHEAD < reading[1] < UNDEFINED and not (reading == bare and is_vr):
                return reading
        raise StructureLost(self._order.key(tag))

    def _is_followed(self, data: BytesLike, tag: int, end: int, bare: bool) -> bool:
        """Return True if what begins at `end` looks like an element that follows `tag`."""
        if end + 8 > len(data):
            if not self._final:
                raise MoreNeeded
            return end == len(data)
        order = self._order
        next_tag, next_vr, _ = order.head.unpack_from(data, end)
        if next_tag in self._delimiters or next_vr in order.short_vrs or next_vr in order.long_vrs:
            return True
        step = order.key(next_tag) - order.key(tag)
        return 0 < step < _NEAR and (not bare or order.long.unpack_from(data, end + 4)[0] <= _LARGEST_IMPLICIT)

    def _looks_implicit(self, data: BytesLike, size: int) -> bool:
        """Return True if the first element has no VR, whatever the transfer syntax says."""
        if not self._order.little:
            return False
        if size < 8:
            if not self._final:
                raise MoreNeeded
            return self.implicit
        tag, vr, _ = self._order.head.unpack_from(data, 0)
        if vr in self._order.short_vrs or vr in self._order.long_vrs:
            return False
        length = self._order.long.unpack_from(data, 4)[0]
        if self.implicit or length > _LOOKAHEAD:
            return self.implicit
        if 8 + length + 8 <= size and self._order.head.unpack_from(data, 8 + length)[1] in self._order.short_vrs:
            return False  # an odd VR
        return self._is_followed(data, tag, 8 + length, bare=True)

    # -- inside of sequences -------------------------------------------------------------------------------------------

    def _inside(self, data: BytesLike, position: int, size: int) -> int:
        """Pass over what is inside the open levels, up to their end if it is here (PS3.5 7.5).

        Each step moves forward or closes a level, so the time is bounded by the length of the dataset.
        """
        levels, order, delimiters = self._levels, self._order, self._delimiters
        head, short_vrs = order.head.unpack_from, order.short_vrs
        start = position
        try:
            while levels and position < size:
                start = position
                tag, vr, length = head(data, position)
                if tag in delimiters:
                    position = self._delimiter(tag, data, position, size)
                    if position == start:
                        return start
                    continue
                if vr in short_vrs and levels[-1] == _IN_ITEM:
                    position += 8 + length
                    continue
                if not levels[-1] & _IN_ITEM:
                    levels.pop()  # the delimiter of the sequence is missing
                    self._violates = True
                    continue
                implicit = bool(levels[-1] & _IMPLICIT)
                value, length, vr = self._measure(data, position, size, implicit)
                if length == UNDEFINED:
                    if len(levels) >= _DEEPEST:
                        raise StructureLost(order.key(tag))
                    levels.append(_IMPLICIT if implicit or vr == order.un else 0)
                    position = value
                else:
                    position = value + length
                    if vr == order.sq and not implicit:
                        self._sequence_end = self._begin + position
        except (struct.error, MoreNeeded):
            return start
        return position

    def _delimiter(self, tag: int, data: BytesLike, position: int, size: int) -> int:
        """Begin an item, or close levels as a delimiter says. Return `position` if that needs what has not come yet."""
        levels = self._levels
        in_item = bool(levels[-1] & _IN_ITEM)
        delimiter = self._delimiters[tag]
        if delimiter == ITEM:
            (length,) = self._order.long.unpack_from(data, position + 4)
            if in_item:
                levels.pop()  # the delimiter of the item before is missing
                self._violates = True
            if length == UNDEFINED:
                levels.append(levels[-1] | _IN_ITEM)
                return position + 8
            return position + 8 + int(length)
        if delimiter == SEQUENCE_END and in_item:
            self._violates = True
            if position + 12 > size and not self._final:
                return position
            follows = position + 12 <= size
            following = self._delimiters.get(self._order.long.unpack_from(data, position + 8)[0]) if follows else None
            if self._begin + position == self._sequence_end and following != SEQUENCE_END:
                return position + 8  # a delimiter behind a sequence of defined length
            levels.pop()
            if following not in (ITEM, SEQUENCE_END):  # otherwise it stands for the delimiter of the item
                levels.pop()
        elif delimiter == SEQUENCE_END or in_item:
            levels.pop()
        return position + 8

    # -- pixels --------------------------------------------------------------------------------------------------------

    def _open_pixels(self, position: int) -> None:
        if not self.has_pixels:
            self._before_pixels = len(self.elements)
        self.has_pixels = self._in_pixels = True
        self._mark(position)

    def _close_pixels(self, position: int) -> None:
        if self._in_pixels:
            self._in_pixels = False
            self._mark(position)

    def _mark(self, position: int) -> None:
        if self._hasher is not None:
            self._hasher.mark(self._begin + position)

    def _tag_at(self, data: BytesLike, position: int) -> int:
        """Return the tag of the element at `position`; 0 if it is not there."""
        encoded = data[position : position + 4]
        return self._order.key(self._order.long.unpack(encoded)[0]) if len(encoded) == 4 else 0
