"""
Percentiles of millions of latencies in a few kilobytes: a histogram whose buckets grow with the value.

Owns counting, adding up, and the text it travels as. The buckets and the text are those of HdrHistogram (three
significant digits, encoding V2, deflated, base64), so that its tools read what a run keeps; the decision record on the
load test's percentiles says why the library itself is not used.

Promise: a percentile is never below the true one and at most a thousandth above it; adding up histograms of parts gives
the histogram of the whole, in any order. Values are whole microseconds, from 0 to one day; what lies beyond counts as
one day. Pure.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

VALUE_US_MAX = 86_400_000_000

# Three significant digits: 2048 buckets one wide, then 1024 of each further width.
_DIGITS = 3
_HALF_BITS = 10
_WHOLE_BITS = _HALF_BITS + 1

_COOKIE = 0x1C849303 | 0x10
_COOKIE_DEFLATED = 0x1C849304 | 0x10
_HEADER = struct.Struct(">iiiiqqd")  # cookie, bytes of counts, offset, digits, lowest, highest, ratio
_ENVELOPE = struct.Struct(">ii")
# A text of ours is some kilobytes; what unpacks to more than this is not one of ours.
_UNPACKED_BYTES_MAX = 1 << 20


class HistogramRefused(ValueError):
    """A text that is no histogram."""


class Histogram:
    """How often each latency occurred. Not thread-safe; one per process and second is added up later."""

    __slots__ = ("_counts", "count", "max_us", "sum_us")

    def __init__(self, values_us: Iterable[float] = ()) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.max_us = 0  # the greatest value itself, not its bucket; after decode() its bucket
        self.sum_us = 0
        for value_us in values_us:
            self.record(value_us)

    def __bool__(self) -> bool:
        return self.count > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]

    def record(self, value_us: float) -> None:
        """Count one value. A negative one (a clock that was set back) counts as 0."""
        us = int(value_us)
        if us < 0:
            us = 0
        elif us > VALUE_US_MAX:
            us = VALUE_US_MAX
        shift = us.bit_length() - _WHOLE_BITS
        index = us if shift <= 0 else (shift << _HALF_BITS) + (us >> shift)
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1
        self.sum_us += us
        if us > self.max_us:
            self.max_us = us

    def record_ms(self, values_ms: Sequence[float]) -> None:
        """`record` of many, in milliseconds: a quarter of the price."""
        counts, find = self._counts, self._counts.get
        sum_us = 0
        max_us = self.max_us
        for value_ms in values_ms:
            us = int(value_ms * 1000)
            if us < 0:
                us = 0
            elif us > VALUE_US_MAX:
                us = VALUE_US_MAX
            shift = us.bit_length() - _WHOLE_BITS
            index = us if shift <= 0 else (shift << _HALF_BITS) + (us >> shift)
            counts[index] = find(index, 0) + 1
            sum_us += us
            if us > max_us:
                max_us = us
        self.count += len(values_ms)
        self.sum_us += sum_us
        self.max_us = max_us

    def add(self, other: Histogram) -> None:
        counts = self._counts
        for index, count in other._counts.items():
            counts[index] = counts.get(index, 0) + count
        self.count += other.count
        self.sum_us += other.sum_us
        self.max_us = max(self.max_us, other.max_us)

    def clear(self) -> None:
        self._counts.clear()
        self.count = self.sum_us = self.max_us = 0

    def percentile_us(self, percent: float) -> int:
        """The smallest value that at least so many percent of all do not exceed; 0 without any."""
        return self.percentiles_us((percent,))[0]

    def percentiles_us(self, percents: Iterable[float]) -> list[int]:
        """Several at once, in the order asked for."""
        wanted = [max(1, math.ceil(percent / 100 * self.count - 1e-9)) for percent in percents]
        found = dict.fromkeys(wanted, 0)
        if self.count:
            left = sorted(set(wanted), reverse=True)
            seen = 0
            for index in sorted(self._counts):
                seen += self._counts[index]
                while left and left[-1] <= seen:
                    found[left.pop()] = min(_highest(index), self.max_us)
        return [found[rank] for rank in wanted]

    def percentile_ms(self, percent: float) -> float:
        return self.percentile_us(percent) / 1000

    @property
    def mean_us(self) -> float:
        return self.sum_us / self.count if self.count else 0.0

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """(lowest value, highest value, count) of every bucket that holds something, in order."""
        for index in sorted(self._counts):
            yield _lowest(index), _highest(index), self._counts[index]

    def count_up_to(self, value_us: int) -> int:
        """How many values lie in buckets that end at or below this one."""
        return sum(count for index, count in self._counts.items() if _highest(index) <= value_us)

    # --- as text --------------------------------------------------------------------------------------------------

    def encode(self) -> str:
        """HdrHistogram's V2 encoding, deflated, base64."""
        payload = bytearray()
        before = -1
        for index in sorted(self._counts):
            empty, count = index - before - 1, self._counts[index]
            before = index
            # Each process does this for a thousand buckets in a second; nearly all numbers are of one byte.
            if empty > 64:
                _put_zigzag(payload, -empty)
            elif empty:
                payload.append(2 * empty - 1)
            if count < 64:
                payload.append(2 * count)
            else:
                _put_zigzag(payload, count)
        header = _HEADER.pack(_COOKIE, len(payload), 0, _DIGITS, 1, VALUE_US_MAX, 1.0)
        packed = zlib.compress(header + payload, 6)
        return base64.b64encode(_ENVELOPE.pack(_COOKIE_DEFLATED, len(packed)) + packed).decode()

    @classmethod
    def decode(cls, text: str) -> Histogram:
        """Raises HistogramRefused. Sums are then those of the middles of buckets."""
        try:
            raw = base64.b64decode(text, validate=True)
            cookie, length = _ENVELOPE.unpack_from(raw)
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(raw[_ENVELOPE.size : _ENVELOPE.size + length], _UNPACKED_BYTES_MAX)
            inner, size, offset, digits, _, _, _ = _HEADER.unpack_from(plain)
        except (ValueError, struct.error, zlib.error) as fault:
            raise HistogramRefused(f"not a histogram: {fault}") from fault
        if cookie != _COOKIE_DEFLATED or inner != _COOKIE or offset != 0 or digits != _DIGITS:
            raise HistogramRefused("not a histogram of three digits in HdrHistogram's encoding V2")
        made = cls()
        counts = made._counts
        index = count = sum_us = 0
        for number in _read_zigzags(plain[_HEADER.size : _HEADER.size + size]):
            if number < 0:
                index -= number
                continue
            if number:
                shift = (index >> _HALF_BITS) - 1  # as in `_lowest` and `_highest`
                lowest = highest = index
                if shift > 0:
                    lowest = (index - (shift << _HALF_BITS)) << shift
                    highest = lowest + (1 << shift) - 1
                if highest > 2 * VALUE_US_MAX:
                    raise HistogramRefused("a histogram of values beyond a day")
                counts[index] = number
                count += number
                sum_us += number * (lowest + highest) // 2
                made.max_us = highest
            index += 1
        made.count, made.sum_us = count, sum_us
        return made


def sum_histograms(parts: Iterable[Histogram]) -> Histogram:
    total = Histogram()
    for part in parts:
        total.add(part)
    return total


def _lowest(index: int) -> int:
    shift = (index >> _HALF_BITS) - 1
    return index if shift <= 0 else (index - (shift << _HALF_BITS)) << shift


def _highest(index: int) -> int:
    shift = (index >> _HALF_BITS) - 1
    return _lowest(index) + (1 << shift) - 1 if shift > 0 else index


def _put_zigzag(payload: bytearray, number: int) -> None:
    """A signed number, small ones in few bytes: ZigZag, then seven bits a byte, the last of nine bytes whole."""
    left = ((number << 1) ^ (number >> 63)) & 0xFFFFFFFFFFFFFFFF
    for _ in range(8):
        if left < 0x80:
            payload.append(left)
            return
        payload.append((left & 0x7F) | 0x80)
        left >>= 7
    payload.append(left & 0xFF)


def _read_zigzags(payload: bytes) -> Iterator[int]:
    at = 0
    while at < len(payload):
        byte = payload[at]
        if byte < 0x80:  # nearly always
            at += 1
            yield (byte >> 1) ^ -(byte & 1)
            continue
        number = shift = 0
        for place in range(9):
            if at >= len(payload):
                raise HistogramRefused("a histogram that is cut off")
            byte = payload[at]
            at += 1
            if place == 8 or byte < 0x80:
                number |= byte << shift
                break
            number |= (byte & 0x7F) << shift
            shift += 7
        yield (number >> 1) ^ -(number & 1)
