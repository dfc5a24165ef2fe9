"""TFRecord files taken apart: plain, GZIP or ZLIB, every checksum looked at.

A record is its length (uint64, little endian), a checksum of that, its bytes and a checksum of
these (https://www.tensorflow.org/tutorials/load_data/tfrecord). Checksums are masked CRC32C. A
compressed file is one such file in a GZIP or ZLIB stream. Both environments import this module,
so it needs nothing of memo_jax.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

LENGTH = 12  # bytes of a length and its checksum
FRAME = 16  # bytes around those of a record
BUFFER = 1 << 20
_MASK = 0xA282EAD8
_EITHER_HEADER = 32 + zlib.MAX_WBITS  # zlib finds out itself whether it is GZIP or ZLIB


class NoTFRecord(Exception):
    """A file that is no TFRecord file in any of the three forms."""


class Record(NamedTuple):
    """A record, or the place of one that is damaged.

    Attributes:
      number: its place in the file, from 0.
      data: its bytes; None where it is damaged.
      code: of the damage, "checksum" or "truncated"; "" where there is none.
      text: what is wrong.
      lost: how many records that cost, as far as can be told.
      position: bytes of the file that have been read.
    """

    number: int
    data: bytes | None
    code: str
    text: str
    lost: int
    position: int


def masked_crc(data: bytes) -> int:
    """The checksum that stands in the file: CRC32C, turned by 15 bits, plus a constant."""
    import google_crc32c  # of an extra: `sources.Files` says so where it is not installed

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def records(source: Any, size: int, skip: int = 0) -> Iterator[Record]:
    """The records of an open file, damaged ones in their place.

    After a damaged length nothing tells where the next record starts: the rest of the file is
    one damaged entry, whose `lost` is counted by the mean size of the records before it.

    Args:
      source: anything with `read(n)`.
      size: bytes of the file.
      skip: leave this many out at the start, whose bytes are not checked.

    Raises:
      NoTFRecord: the file is none.
    """
    counted = _Counted(source)
    stream: io.BufferedReader[Any] = io.BufferedReader(counted, BUFFER)
    head = stream.peek(LENGTH)[:LENGTH]
    if not head:
        return
    plain = _is_plain(head)
    if not plain:
        if not _is_compressed(head):
            raise NoTFRecord("neither plain, nor GZIP, nor ZLIB, or damaged in its first bytes")
        inflated = _Inflated(stream)
        stream = io.BufferedReader(inflated, BUFFER)
    position = 0
    for number, (data, code, text) in enumerate(_entries(stream, skip)):
        before = position  # of a compressed file it runs ahead of the records, by a buffer
        position = position + FRAME + len(data or b"") if plain else inflated.taken
        lost = 1 if code else 0
        if code and data is None and before:
            lost = max(1, round((size - before) * number / before))
        if code == "truncated":
            lost = 1  # how long the file was, nobody knows
        if number >= skip:
            position = size if code and data is None else position
            yield Record(number, None if code else data, code, text, lost, position)


def _entries(stream: io.BufferedReader[Any], skip: int) -> Iterator[tuple[bytes | None, str, str]]:
    """(bytes, code, text) of each entry; None after which no other can be found."""
    for index in itertools.count():
        try:
            header = _read(stream, LENGTH)
            if not header:
                return
            if len(header) < LENGTH:
                yield None, "truncated", f"the file ends {len(header)} bytes into its length"
                return
            length, crc = struct.unpack("<QI", header)
            if masked_crc(header[:8]) != crc:
                yield None, "checksum", "its length is damaged, and the rest of the file with it"
                return
            data, footer = _read(stream, length), _read(stream, 4)
        except _CutShort:
            yield None, "truncated", "the compressed stream ends before its end"
            return
        except zlib.error as error:
            yield None, "checksum", f"the compressed stream is damaged from here on ({error})"
            return
        if len(data) < length or len(footer) < 4:
            missing = length + 4 - len(data) - len(footer)
            yield None, "truncated", f"the file ends {missing} bytes before it does"
            return
        if index >= skip and masked_crc(data) != struct.unpack("<I", footer)[0]:
            yield data, "checksum", f"its {length} bytes are not what its checksum says"
        else:
            yield data, "", ""


def _read(stream: io.BufferedReader[Any], count: int) -> bytes:
    """`count` bytes, or as many as there are. In steps, so that no length is taken on trust."""
    if count <= BUFFER:
        return stream.read(count)
    parts = []
    while count > 0 and (part := stream.read(min(count, 16 * BUFFER))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _is_plain(head: bytes) -> bool:
    return len(head) == LENGTH and masked_crc(head[:8]) == struct.unpack("<I", head[8:])[0]


def _is_compressed(head: bytes) -> bool:
    gzip = head[:2] == b"\x1f\x8b"
    zlib_ = len(head) > 1 and head[0] & 15 == 8 and (head[0] * 256 + head[1]) % 31 == 0
    return gzip or zlib_


class _CutShort(zlib.error):
    """A compressed stream without its end."""


class _Counted(io.RawIOBase):
    """A source as a raw stream that knows how much was read of it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class _Inflated(io.RawIOBase):
    """What GZIP or ZLIB streams, one after the other, hold.

    `taken` counts the compressed bytes that were made use of.
    """

    def __init__(self, stream: io.BufferedReader[Any]) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj(_EITHER_HEADER)
        self._waiting = b""
        self._damage: zlib.error | None = None
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._damage is not None:
                raise self._damage
            if self._inflate.eof:
                self._waiting = self._inflate.unused_data or self._stream.read(BUFFER)
                if not self._waiting.strip(b"\0"):  # what some writers fill the end up with
                    return 0
                self._inflate = zlib.decompressobj(_EITHER_HEADER)
            waiting = self._waiting or self._stream.read(BUFFER)
            if not waiting:
                raise _CutShort
            data = self._inflated(waiting, len(buffer))
            self.taken += len(waiting) - len(self._waiting)
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _inflated(self, waiting: bytes, most: int) -> bytes:
        """Up to `most` bytes. zlib gives nothing of a piece that is damaged somewhere, so such a
        piece is gone through again byte by byte."""
        before = self._inflate.copy()
        try:
            data = self._inflate.decompress(waiting, most)
            self._waiting = self._inflate.unconsumed_tail
            return data
        except zlib.error as error:
            self._damage, self._inflate, parts = error, before, []
        for i in range(len(waiting)):
            try:
                parts.append(self._inflate.decompress(waiting[i : i + 1]))
            except zlib.error:
                break
        self._waiting = b""
        return b"".join(parts)[:most]
