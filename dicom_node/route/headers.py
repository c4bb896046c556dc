"""The headers of series: kept ones from the index, or made of files. Where they are not enough, instances are opened.

That is for Enhanced objects, for elements that are too large to be kept, after the list of kept elements has grown, and
for what release 0.1 filed.
"""

from collections.abc import Iterable, Iterator, Sequence

from pydicom.dataset import Dataset

from inference.headers.decoding import HeaderDecoder
from inference.headers.reading import read_beginning
from storage.blobs import Blob
from storage.errors import MalformedObject
from storage.log.headers.instance_reader import read_kept_header
from storage.log.headers.kept_header import encoded_elements, is_enough
from storage.log.instances import InstanceStore
from storage.records.instances import Instance, Series

INSTANCES_AT_ONCE = 2000  # whose kept headers are in memory together
SERIES_AT_ONCE = 200


def series_headers(store: InstanceStore, series: Sequence[Series]) -> Iterator[list[Dataset]]:
    """Yield the headers of each of these series, which are of one study. Nobody may change them.

    Raises OSError if an instance must be opened and cannot be read now.
    """
    decoder = HeaderDecoder()
    for batch in _batches(series):
        kept = store.kept_headers(batch[0].study_instance_uid, [s.series_instance_uid for s in batch])
        for one in batch:
            decoder.begin_series()
            yield [_header(decoder, kept.get(i.place, b""), i.blob) for i in one.instances]


def sample_header(store: InstanceStore, instances: Sequence[Instance]) -> Dataset | None:
    """Return the kept header of the first of these instances of one study whose header is kept; else None."""
    for instance in instances:
        kept = store.kept_headers(instance.study_instance_uid, (instance.series_instance_uid,))
        found = _decode(HeaderDecoder(), kept.get(instance.place, b""))
        if found is not None:
            return found
    return None


def blob_headers(blobs: Iterable[Blob]) -> list[Dataset]:
    """Return the headers of the instances of one series, as they would be if these were received. Raises OSError."""
    decoder = HeaderDecoder()
    return [_header(decoder, _kept_of(blob), blob) for blob in blobs]


def _header(decoder: HeaderDecoder, kept: bytes, blob: Blob) -> Dataset:
    decoded = _decode(decoder, kept)
    return read_beginning(blob).header if decoded is None else decoded


def _decode(decoder: HeaderDecoder, kept: bytes) -> Dataset | None:
    """Return the header; None if it is not enough, or if pydicom cannot read it."""
    if not is_enough(kept):
        return None
    try:
        return decoder.decode(*encoded_elements(kept))
    except MemoryError:
        raise
    except Exception:  # pydicom raises errors of many kinds
        return None


def _kept_of(blob: Blob) -> bytes:
    try:
        return read_kept_header(blob)
    except MalformedObject:  # which is told when all of the header is read
        return b""


def _batches(series: Sequence[Series]) -> Iterator[list[Series]]:
    batch: list[Series] = []
    instances = 0
    for one in series:
        if batch and (len(batch) == SERIES_AT_ONCE or instances + len(one.instances) > INSTANCES_AT_ONCE):
            yield batch
            batch, instances = [], 0
        batch.append(one)
        instances += len(one.instances)
    if batch:
        yield batch
