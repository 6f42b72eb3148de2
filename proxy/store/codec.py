"""Recording <-> bytes: one entry of the store, which is read back whole and unharmed or not at all.

An entry, format version 1; integers are unsigned and big-endian:

    offset  bytes  what
         0      8  magic: 89 'R' 'P' 'R' 0D 0A 1A 0A, which a transfer as text would spoil
         8      2  format version
        10      2  flags: bit 0 is set if the payload is compressed with zstd (RFC 8878); the others are 0
        12      4  M, the length of the metadata
        16      8  P, the length of the payload as it is stored
        24      8  Q, the length of the request body
        32      8  R, the length of the response body
        40      4  F, the number of frames
        44     32  SHA-256 over bytes 0 to 43 and 76 to the end
        76      M  metadata: a JSON object, see `metadata.py`
      76+M      P  payload: Q + R + 12 F bytes, or one zstd frame that holds them

The payload is the canonical request body, the response body, F frame lengths of 4 bytes and F gaps of 8 bytes: the
microseconds by which a frame came after the one before it, the first one after the moment the request had been sent.
Lengths and gaps are little-endian, the gaps signed, and they lie in planes: the lowest byte of each number, then the
second lowest of each, and so on, since zstd makes next to nothing of the planes that are zero throughout.
"""

import struct
import sys
from array import array
from collections import deque
from hashlib import sha256
from itertools import accumulate
from operator import sub
from typing import NamedTuple

from proxy.recording import RecordedRequest, Recording, Timeline
from proxy.store.metadata import Damaged, Metadata, dump
from proxy.store.summary import Summary, summary

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["LARGEST_BYTES", "Damaged", "Decoder", "Encoder", "Summary", "UnknownVersion", "decode", "encode", "summary"]

LARGEST_BYTES = 512 * 1024 * 1024
"""Of an unpacked payload. Far beyond any answer; it bounds what a forged entry can make us unpack."""

_MAGIC = b"\x89RPR\r\n\x1a\n"
_VERSION = 1
_COMPRESSED = 1
_LEVEL = 2  # 3 takes up to twice as long, and takes less than 1 % off event streams; 5 takes five times as long
_LAYOUT = struct.Struct(">8sHHIQQQI")
_HEADER_BYTES = _LAYOUT.size + sha256().digest_size
_LENGTH_BYTES = 4
_FRAME_BYTES = 12
_ONE_FRAME = struct.Struct("<Iq")
_LITTLE_ENDIAN = sys.byteorder == "little"


class UnknownVersion(Damaged):
    """An entry in another version of the format: not ours to read, nor to judge."""


class _Layout(NamedTuple):
    magic: bytes
    version: int
    flags: int
    metadata_bytes: int
    stored_bytes: int
    request_bytes: int
    response_bytes: int
    frames: int

    @property
    def payload_bytes(self) -> int:
        return self.request_bytes + self.response_bytes + _FRAME_BYTES * self.frames


class Encoder:
    """Makes entries, for one thread: where two share a compressor, one waits for the other."""

    def __init__(self) -> None:
        # To make one takes longer than to compress a plain answer with it.
        self._compressor = zstd.ZstdCompressor(level=_LEVEL)

    def encode(self, recording: Recording) -> bytes:
        """The entry that stands for a recording.

        Raises:
            ValueError: its bodies and timeline take more than `LARGEST_BYTES`.
        """
        request, body, timeline = recording.request.body, recording.body, recording.timeline
        payload = b"".join((request, body, _packed(timeline)))
        if len(payload) > LARGEST_BYTES:
            raise ValueError(f"a recording of {len(payload)} bytes is more than an entry may hold")
        compressed = self._compressor.compress(payload, zstd.ZstdCompressor.FLUSH_FRAME)
        flags, stored = (_COMPRESSED, compressed) if len(compressed) < len(payload) else (0, payload)
        metadata = dump(recording)
        lengths = len(metadata), len(stored), len(request), len(body), len(timeline.lengths)
        layout = _LAYOUT.pack(_MAGIC, _VERSION, flags, *lengths)
        return b"".join((layout, _digest(layout, metadata, stored), metadata, stored))


def encode(recording: Recording) -> bytes:
    """The entry that stands for one recording, see `Encoder.encode`."""
    return Encoder().encode(recording)


class Decoder:
    """Reads entries; for any number of threads."""

    def __init__(self) -> None:
        self._ready: deque[zstd.ZstdDecompressor] = deque(maxlen=1)

    def prepare(self) -> None:
        """Have a decompressor at hand for the next entry: to make one takes longer than to use it, which is once."""
        if not self._ready:
            self._ready.append(zstd.ZstdDecompressor())

    def decode(self, data: bytes, key: str) -> Recording:
        """The recording that was encoded, if it is the one of that key.

        Raises:
            UnknownVersion: a program with another version of the format wrote it.
            Damaged: anything else is wrong with it.
        """
        layout = _checked_layout(data)
        stored_at = _HEADER_BYTES + layout.metadata_bytes
        metadata = Metadata.parse(data[_HEADER_BYTES:stored_at], key)
        payload = self._payload(layout, data[stored_at:])
        body_at, timeline_at = layout.request_bytes, layout.request_bytes + layout.response_bytes
        timeline = _timeline(payload[timeline_at:], metadata.head_us)
        if sum(timeline.lengths) != layout.response_bytes:
            raise Damaged("its frames are not as long as its body")
        if 0 in timeline.lengths:
            raise Damaged("a frame of it is empty, and none ever comes")
        return metadata.recording(payload[:body_at], payload[body_at:timeline_at], timeline)

    def decode_request(self, data: bytes, key: str, longest_bytes: int) -> RecordedRequest | None:
        """What a recording answers, without the answer; None if its body is longer than that. Raises as `decode`."""
        layout = _checked_layout(data)
        metadata = Metadata.parse(data[_HEADER_BYTES : _HEADER_BYTES + layout.metadata_bytes], key)
        body = request_body(data, longest_bytes)
        return body if body is None else metadata.recording(body, b"", Timeline(0, array("I"), array("Q"))).request

    def _payload(self, layout: _Layout, stored: bytes) -> bytes:
        payload = self._decompressed(stored, layout.payload_bytes) if layout.flags & _COMPRESSED else stored
        if len(payload) != layout.payload_bytes:
            raise Damaged("its payload is not as long as it says")
        return payload

    def _decompressed(self, stored: bytes, length: int) -> bytes:
        try:
            decompressor = self._ready.pop()
        except IndexError:
            decompressor = zstd.ZstdDecompressor()
        try:
            # One byte more than there should be, so that a frame which holds more is found out.
            payload = decompressor.decompress(stored, length + 1)
        except zstd.ZstdError as error:
            raise Damaged("its payload can't be decompressed") from error
        if not decompressor.eof or decompressor.unused_data:
            raise Damaged("its payload is not one whole zstd frame")
        return payload


def request_body(data: bytes, longest_bytes: int) -> bytes | None:
    """The body of the request in an entry that nobody has checked; None if it is longer than that.

    Raises:
        Damaged: there is none.
    """
    layout = _Layout._make(_LAYOUT.unpack_from(data.ljust(_LAYOUT.size, b"\0")))
    length, stored = layout.request_bytes, data[_HEADER_BYTES + layout.metadata_bytes :]
    if length > longest_bytes:
        return None
    try:
        body = zstd.ZstdDecompressor().decompress(stored, length) if layout.flags & _COMPRESSED else stored[:length]
    except zstd.ZstdError as error:
        raise Damaged("its payload can't be decompressed") from error
    if len(body) != length:
        raise Damaged("its payload is not as long as it says")
    return body


def decode(data: bytes, key: str) -> Recording:
    """The recording of one entry, see `Decoder.decode`."""
    return Decoder().decode(data, key)


def _checked_layout(data: bytes) -> _Layout:
    if len(data) < _HEADER_BYTES:
        raise Damaged("it is shorter than its header")
    layout = _Layout._make(_LAYOUT.unpack_from(data))
    if layout.magic != _MAGIC:
        raise Damaged("it does not begin as an entry does")
    if layout.version != _VERSION:
        raise UnknownVersion(f"its format is version {layout.version}, this program reads version {_VERSION}")
    if _HEADER_BYTES + layout.metadata_bytes + layout.stored_bytes != len(data):
        raise Damaged("it is not as long as it says")
    view = memoryview(data)
    if _digest(view[: _LAYOUT.size], view[_HEADER_BYTES:]) != data[_LAYOUT.size : _HEADER_BYTES]:
        raise Damaged("its checksum does not match")
    # From here on nothing is an accident: whatever is wrong was put there by somebody who can make a checksum.
    if layout.flags & ~_COMPRESSED or layout.payload_bytes > LARGEST_BYTES:
        raise Damaged("its header makes no sense")
    return layout


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _packed(timeline: Timeline) -> bytes:
    arrived_us = timeline.arrived_us
    if len(arrived_us) == 1:  # the planes of one number are its bytes
        return _ONE_FRAME.pack(timeline.lengths[0], arrived_us[0])
    gaps = array("q", map(sub, arrived_us, (0, *arrived_us)))
    return _planes(timeline.lengths) + _planes(gaps)


def _timeline(packed: bytes, head_us: int) -> Timeline:
    if len(packed) == _ONE_FRAME.size:
        length, gap = _ONE_FRAME.unpack(packed)
        lengths, gaps = array("I", (length,)), array("q", (gap,))
    else:
        gaps_at = len(packed) // _FRAME_BYTES * _LENGTH_BYTES
        lengths, gaps = _numbers("I", packed[:gaps_at]), _numbers("q", packed[gaps_at:])
    try:
        return Timeline(head_us, lengths, array("Q", accumulate(gaps)))
    except OverflowError as error:
        raise Damaged("a frame of it arrived before it was asked for, or never") from error


def _planes(numbers: "array[int]") -> bytes:
    raw, size = _little_endian(numbers).tobytes(), numbers.itemsize
    return b"".join([raw[plane::size] for plane in range(size)])


def _numbers(kind: str, planes: bytes) -> "array[int]":
    numbers: array[int] = array(kind)
    size = numbers.itemsize
    count = len(planes) // size
    raw = bytearray(planes)
    for plane in range(size):
        raw[plane::size] = planes[plane * count : (plane + 1) * count]
    numbers.frombytes(raw)
    if not _LITTLE_ENDIAN:
        numbers.byteswap()
    return numbers


def _little_endian(numbers: "array[int]") -> "array[int]":
    if _LITTLE_ENDIAN:
        return numbers
    swapped = numbers[:]
    swapped.byteswap()
    return swapped
