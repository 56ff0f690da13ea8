"""Zstandard files as streams of bytes. The library's own reader takes a file that was cut short for one that ends."""

from __future__ import annotations

import io
from typing import IO, Any

_BLOCK_BYTES = 1 << 12  # a few hundred bytes may stand for a megabyte, and a whole block is decompressed at once


class ZstdStream(io.RawIOBase):
    """The decompressed bytes of a file; put :class:`io.BufferedReader` around it.

    Frames may follow one another, as pzstd writes them and as ``cat a.zst b.zst`` makes them.

    Args:
        file: the compressed bytes.

    Raises:
        EOFError: while reading, the file ends inside a frame.
        zstandard.ZstdError: while reading, the bytes are no zstd.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: Any = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill some of ``target``; 0 at the end."""
        while not self._ready and self._advance():
            pass
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _advance(self) -> bool:
        """Decompress one block more; false at the end of the file."""
        import zstandard

        self._compressed = self._compressed or self._file.read(_BLOCK_BYTES)
        if not self._compressed:
            if self._frame is not None:
                raise EOFError("it ends inside a frame")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._ready = memoryview(self._frame.decompress(self._compressed))
        self._compressed = b""
        if self._frame.eof:
            self._compressed, self._frame = self._frame.unused_data, None
        return True
