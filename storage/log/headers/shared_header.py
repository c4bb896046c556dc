"""The compression of kept headers: most of a header is the same in all images of a series, and is stored once."""

import zlib

_WINDOW = -12  # 4 KiB, as most kept headers have less; raw deflate
_MEMORY = 5  # so small a state is set up in microseconds
LARGEST_SHARED = 2**12


def compress_shared(kept: bytes) -> bytes:
    """Return the kept header that others of its series are compressed against."""
    return zlib.compress(kept)


def expand_shared(stored: bytes) -> bytes:
    return zlib.decompress(stored)


def compress_kept(kept: bytes, shared: bytes) -> bytes:
    """Return a kept header without what it has in common with another one of its series."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, _WINDOW, _MEMORY, zlib.Z_DEFAULT_STRATEGY, shared[-LARGEST_SHARED:])
    return compressor.compress(kept) + compressor.flush()


def expand_kept(stored: bytes, shared: bytes) -> bytes:
    expander = zlib.decompressobj(_WINDOW, shared[-LARGEST_SHARED:])
    return expander.decompress(stored) + expander.flush()
