"""
Makes a screenshot small: the 256 colours that it has most of stay as they are, the shades that smooth its letters
become the nearest of them. A page of text becomes a third of it, and nobody sees a difference.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS_MAX = 256


def shrink_png(data: bytes) -> bytes:
    """Of an RGB or RGBA picture of 8 bits without interlacing, as browsers make them."""
    width, height, channels, rows = _read(data)
    pixels = b"".join(bytes(row) for row in rows)
    shades = [pixels[at::channels] for at in range(3)]
    counts = Counter(zip(*shades, strict=True))
    colours = [colour for colour, _ in counts.most_common(COLOURS_MAX)]
    number = {colour: index for index, colour in enumerate(colours)}
    for colour in counts:
        if colour not in number:
            number[colour] = min(range(len(colours)), key=lambda index: _distance(colours[index], colour))
    indices = bytes(map(number.__getitem__, zip(*shades, strict=True)))
    lines = b"".join(b"\0" + indices[at * width : (at + 1) * width] for at in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = b"".join(bytes(colour) for colour in colours)
    made = SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"PLTE", palette)
    made += _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")
    return made if len(made) < len(data) else data


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) + abs(one[2] - other[2])


def _read(data: bytes) -> tuple[int, int, int, list[bytearray]]:
    at, packed = len(SIGNATURE), b""
    width = height = channels = 0
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert depth == 8 and colour in (2, 6) and not interlaced
            channels = 3 if colour == 2 else 4
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw = zlib.decompress(packed)
    stride = width * channels
    above = bytearray(stride)
    rows = []
    for number in range(height):
        begin = number * (stride + 1)
        above = _unfilter(raw[begin], bytearray(raw[begin + 1 : begin + 1 + stride]), above, channels)
        rows.append(above)
    return width, height, channels, rows


def _unfilter(kind: int, row: bytearray, above: bytearray, channels: int) -> bytearray:
    """One line as it was before the filter that made it compress well."""
    for at in range(len(row)) if kind else ():
        left = row[at - channels] if at >= channels else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = above[at]
        elif kind == 3:
            guess = (left + above[at]) // 2
        else:
            corner = above[at - channels] if at >= channels else 0
            nearness = [abs(above[at] - corner), abs(left - corner), abs(left + above[at] - 2 * corner)]
            guess = (left, above[at], corner)[nearness.index(min(nearness))]
        row[at] = (row[at] + guess) & 255
    return row


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
