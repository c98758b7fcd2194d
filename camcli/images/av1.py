"""The image size in an AV1 stream, read from its sequence header."""

from __future__ import annotations

_TEMPORAL_DELIMITER, _SEQUENCE_HEADER = b"\x12\x00", 0x0A


def sequence_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the first sequence header in the first bytes of an AVIF file; None if none is found.

    It is searched at the start of an ``av1C`` box and at the start of the coded data (AV1 specification, 5.5).
    """
    for mark, skipped in ((b"av1C", 4), (b"mdat", 0)):
        at = data.find(mark)
        if at < 0:
            continue
        begin = at + 4 + skipped
        if data[begin : begin + 2] == _TEMPORAL_DELIMITER:
            begin += 2
        if data[begin : begin + 1] == bytes([_SEQUENCE_HEADER]):
            length = data[begin + 1]  # one byte, because a sequence header is shorter than 128 bytes
            return _size(data[begin + 2 : begin + 2 + length])
    return None


class _Bits:
    """Reads bits of ``data``, the most significant first; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        bits = self._value >> self._left if self._left >= 0 else 0
        return bits & ((1 << count) - 1)

    def skip_uvlc(self) -> None:
        zeros = 0
        while zeros < 32 and self._left > 0 and not self.take(1):
            zeros += 1
        self.take(zeros)


def _size(header: bytes) -> tuple[int, int]:
    bits = _Bits(header)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    timing = bits.take(1)
    delay_bits = 0
    if timing:
        bits.take(64)
        if bits.take(1):
            bits.skip_uvlc()
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take(1):
            bits.take(4)
