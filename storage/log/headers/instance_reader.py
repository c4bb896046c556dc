"""The reader of an instance: in one pass over its bytes, its header, its kept header and the hashes of its content."""

import hashlib
import zlib
from io import BufferedReader
from typing import BinaryIO

from pydicom.filereader import _read_file_meta_info, read_preamble

from storage.blobs import Blob, open_to_parse
from storage.log.files import BytesLike
from storage.log.headers.content_hashes import ContentHasher
from storage.log.headers.dataset_reader import DatasetReader
from storage.log.headers.encodings import BIG_ENDIAN, DEFLATED, IMPLICIT, value_of
from storage.log.headers.header import HEADER_ELEMENTS, UIDS, InstanceHeader, UnreadableDataset, header_of
from storage.log.headers.kept_header import CANDIDATE_SIZES, CANDIDATES, encode_kept_header
from storage.log.headers.patient_header import OTHER_PATIENT_IDS_SEQUENCE, listed_ids
from storage.log.headers.wanted import Wanted
from storage.records.instances import ContentHashes

LARGEST_INFLATED = 64 * 2**20  # bytes; what a deflated dataset holds behind them is not read
_INFLATED_AT_ONCE = 2**20
_HASHED_AT_ONCE = 2**20
_READ_AT_ONCE = 8 * 2**20  # bytes of a file

_WANTED = Wanted.of(CANDIDATES | {*HEADER_ELEMENTS}, CANDIDATE_SIZES)


def scan_header(dataset: BytesLike, transfer_syntax_uid: str) -> InstanceHeader:
    """Return the header of a dataset, given without preamble and file meta information.

    The beginning of a dataset is enough if it holds the wanted attributes. Raises UnreadableDataset if a UID is
    missing; its message never quotes the dataset. Any other attribute that cannot be read is None.
    """
    reader = InstanceReader(transfer_syntax_uid)
    reader.update(dataset, final=True)
    return reader.header()


def read_instance_header(file: BufferedReader, transfer_syntax_uid: str) -> InstanceHeader:
    """Return the header of the dataset that begins at the position of `file`, which is read no further than needed.

    Raises UnreadableDataset as `scan_header` does.
    """
    return _read_to_pixels(file, transfer_syntax_uid).header()


def read_whole(file: BinaryIO, transfer_syntax_uid: str) -> "InstanceReader":
    """Read the dataset that begins at the position of `file` to its end, for its hashes too. Raises OSError."""
    reader = InstanceReader(transfer_syntax_uid, hashing=True)
    while part := file.read(_HASHED_AT_ONCE):
        reader.update(part)
    reader.update(b"", final=True)
    return reader


def read_kept_header(blob: Blob) -> bytes:
    """Return the kept header of an instance. Raises as `open_to_parse` does."""
    with open_to_parse(blob) as file:
        read_preamble(file, force=False)
        return _read_to_pixels(file, str(_read_file_meta_info(file).TransferSyntaxUID)).kept_header()


def _read_to_pixels(file: BufferedReader, transfer_syntax_uid: str) -> "InstanceReader":
    reader = InstanceReader(transfer_syntax_uid)
    while part := file.read(_READ_AT_ONCE):
        reader.update(part)
        if reader.is_identified and reader.has_reached_pixels:
            break
    else:
        reader.update(b"", final=True)
    return reader


class InstanceReader:
    """The reader of one instance, whose dataset comes in one part or in many.

    A transfer syntax that is unknown here is read as explicit VR little endian, as PS3.5 A.4 requires of all
    encapsulated ones. `hashing` says that `hashes` will be asked for.
    """

    def __init__(self, transfer_syntax_uid: str, hashing: bool = False) -> None:
        self._little = transfer_syntax_uid not in BIG_ENDIAN
        self._hasher = ContentHasher() if hashing else None
        implicit = transfer_syntax_uid in IMPLICIT
        self._reader = DatasetReader(_WANTED, implicit, self._little, self._hasher)
        self._inflater = _Inflater(self._reader, hashing) if transfer_syntax_uid in DEFLATED else None

    @property
    def is_identified(self) -> bool:
        """True once all UIDs of the instance were read."""
        return UIDS.keys() <= self._reader.elements.keys()

    @property
    def has_reached_pixels(self) -> bool:
        return self._reader.has_pixels

    def update(self, part: BytesLike, final: bool = False) -> None:
        """Read a part that follows the one before. Nothing follows the `final` one, which may be empty."""
        if self._inflater is None:
            self._reader.update(part, final)
        else:
            self._inflater.update(part, final)

    def header(self) -> InstanceHeader:
        """Return the header, as far as it was read. Raises UnreadableDataset if a UID is missing."""
        reader = self._reader
        elements, implicit = reader.elements, reader.implicit
        values = {
            tag: value
            for tag in HEADER_ELEMENTS
            if tag in elements and (value := value_of(elements[tag], implicit)) != b""
        }
        if OTHER_PATIENT_IDS_SEQUENCE in values:
            values[OTHER_PATIENT_IDS_SEQUENCE] = listed_ids(
                elements[OTHER_PATIENT_IDS_SEQUENCE], implicit, self._little
            )
        if self._inflater is not None and self._inflater.is_over and not self.is_identified:
            raise UnreadableDataset(f"The first {LARGEST_INFLATED} bytes of the deflated dataset do not have all UIDs")
        return header_of(values, reader.broken_at)

    def kept_header(self) -> bytes:
        """Return the kept header of the whole instance."""
        reader = self._reader
        complete = reader.is_regular and (reader.broken_at is None or reader.has_pixels)
        if self._inflater is not None:
            complete = complete and (self._inflater.is_whole or reader.has_pixels)
        return encode_kept_header(reader.elements, reader.left_out, reader.implicit, self._little, complete)

    def hashes(self) -> ContentHashes:
        """Return the hashes of the whole instance, for which `hashing` must have been set.

        Those of a deflated dataset are of what it holds. If it is damaged or holds too much, its pixels count as none,
        and the other hash is that of the bytes as they came.
        """
        assert self._hasher is not None
        if self._inflater is None or self._inflater.is_whole:
            return self._hasher.hashes()
        return ContentHashes("", self._inflater.sha256)


class _Inflater:
    """A deflated dataset (PS3.5 A.5: a raw deflate stream), inflated up to a limit for a reader.

    Unless hashes need its end, it is inflated no further than where pixels begin.
    """

    def __init__(self, reader: DatasetReader, whole: bool) -> None:
        self._reader = reader
        self._needs_all = whole
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._sha256 = hashlib.sha256()
        self._inflated = 0
        self._is_damaged = False
        self._has_ended = False

    @property
    def is_over(self) -> bool:
        """True if there was more than may be inflated."""
        return self._inflated > LARGEST_INFLATED

    @property
    def is_whole(self) -> bool:
        """True if the whole dataset was inflated."""
        return self._stream.eof and not self.is_over and not self._is_damaged

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def update(self, part: BytesLike, final: bool) -> None:
        if self._needs_all:
            self._sha256.update(part)
        while not self._is_done:
            try:
                inflated = self._stream.decompress(part, _INFLATED_AT_ONCE)
            except zlib.error:
                self._is_damaged = True
                break
            self._inflated += len(inflated)
            self._reader.update(inflated)
            part = self._stream.unconsumed_tail
            if not inflated and not part:
                break
        if final and not self._has_ended:
            self._has_ended = True
            self._reader.update(b"", final=True)

    @property
    def _is_done(self) -> bool:
        if self._is_damaged or self._stream.eof or self.is_over:
            return True
        return not self._needs_all and (self._reader.has_pixels or self._reader.broken_at is not None)
