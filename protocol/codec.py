"""
The two codecs: frames as msgpack or as JSON, the same maps in both.

Promise: `decode` gives a map or raises FrameError (100, or 105 for size), nothing else, whatever the bytes are, in time
and memory bounded by the limits. Duplicate keys: the last one wins. NaN and Infinity in JSON, binary, extension and
timestamp types in msgpack, lone surrogates, byte order marks, UTF-16 and trailing bytes are refused.

Not here: whether a frame came as text or binary (the socket layer), what the map means (frames.py), and numbers or
depths that only matter inside a value (values.py).
"""

import json
import re
from json.encoder import JSONEncoder
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NoReturn, Protocol

import msgpack
from pydantic_core import from_json

from protocol.errors import ErrorCode, FrameError
from protocol.frames import ack, find_id, find_seq
from protocol.limits import (
    DECODE_ARRAY_MAX,
    DECODE_DEPTH_MAX,
    DECODE_MAP_MAX,
    DECODE_STRING_BYTES_MAX,
    FRAME_BYTES_MAX,
    SEQ_MAX,
    UPDATE_BYTES_MAX,
)


class Codec(Protocol):
    """`encode` may raise TypeError, ValueError or OverflowError for what has no place in a frame: our own mistake."""

    name: str
    subprotocol: str
    is_text: bool

    def decode(self, data: bytes | str) -> dict[str, Any]: ...

    def encode(self, frame: dict[str, Any]) -> bytes: ...

    def encode_ack(self, seq: int, version: int, saved: int) -> bytes:
        """`encode(frames.ack(seq, version, saved))`, or other bytes that say the same: most frames are this one."""
        ...


class MsgpackCodec:
    name = "msgpack"
    subprotocol = "wayhold.v1.msgpack"
    is_text = False

    def __init__(self) -> None:
        # One packer for all frames: making one for each doubles the cost of an ack.
        self._pack = msgpack.Packer(autoreset=True).pack

    def decode(self, data: bytes | str) -> dict[str, Any]:
        if isinstance(data, str):
            raise FrameError(ErrorCode.BAD_FRAME, "a msgpack frame is binary")
        size = len(data)
        if size > FRAME_BYTES_MAX:
            raise FrameError(ErrorCode.TOO_LARGE, "the frame is larger than 64 KiB")
        # The C decoder allocates what an array header claims before it sees the items, so a few kilobytes of nested
        # headers could claim hundreds of megabytes. Frames with many long headers are walked in Python first; 0xdc and
        # 0xdd occur in other places too, so this is only a suspicion.
        if (0xDC in data or 0xDD in data) and data.count(b"\xdc") + data.count(b"\xdd") > _LONG_ARRAYS_TRUSTED:
            _check_shape(data)
        try:
            frame = msgpack.unpackb(
                data,
                raw=False,
                strict_map_key=True,
                timestamp=0,
                ext_hook=_refuse_ext,
                max_str_len=DECODE_STRING_BYTES_MAX,
                max_bin_len=0,
                max_array_len=DECODE_ARRAY_MAX,
                max_map_len=DECODE_MAP_MAX,
                max_ext_len=0,
            )
        # Every failure of the decoder is one of these (its own classes are ValueErrors).
        except (ValueError, OverflowError, TypeError, RecursionError, msgpack.UnpackException):
            raise _bad_frame("not a msgpack map within the limits", _salvage_msgpack(data)) from None
        if type(frame) is not dict:
            raise FrameError(ErrorCode.BAD_FRAME, "a frame is a map")
        if size > UPDATE_BYTES_MAX and frame.get("t") == "update":
            raise FrameError(ErrorCode.TOO_LARGE, "the update is larger than 32 KiB", find_seq(frame))
        return frame

    def encode(self, frame: dict[str, Any]) -> bytes:
        packed: bytes = self._pack(frame)
        return packed

    def encode_update(self, seq: int, payload: bytes) -> bytes:
        """`encode({"t": "update", "seq": seq, **body})` of a body of at most 13 fields, which `payload` encodes."""
        packed: bytes = self._pack(seq)
        return _UPDATE_HEADS[payload[0] & 0x0F] + packed + payload[1:]

    def decode_ack(self, data: bytes) -> tuple[int, int, int] | None:
        """(seq, version, saved) of what `encode_ack` made, unless a number was too large for it; None for the rest."""
        if len(data) != _ACK_BYTES:
            return None
        head, seq, before_version, version, before_saved, saved = _unpack_ack(data)
        if head != _ACK_SEQ or before_version != _ACK_VERSION or before_saved != _ACK_SAVED:
            return None
        return seq, version, saved

    def decode_saved(self, data: bytes) -> int | None:
        """The number in a `saved` as `encode` makes it; None for the rest."""
        if not data.startswith(_SAVED_SEQ):
            return None
        size = len(data)
        if size == _SAVED_BYTES and data[-1] < 0x80:
            return data[-1]
        kind = _SAVED_KINDS.get(size)
        if kind is None or data[_SAVED_BYTES - 1] != kind:
            return None
        return int.from_bytes(data[_SAVED_BYTES:], "big")

    def encode_ack(self, seq: int, version: int, saved: int) -> bytes:
        try:
            return _pack_ack(_ACK_SEQ, seq, _ACK_VERSION, version, _ACK_SAVED, saved)
        except StructError:
            return self.encode(ack(seq, version, saved))


class JsonCodec:
    name = "json"
    subprotocol = "wayhold.v1.json"
    is_text = True

    def __init__(self) -> None:
        self._encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

    def decode(self, data: bytes | str) -> dict[str, Any]:
        # A str of n characters has at least n bytes, so the cheap test comes first.
        if len(data) > FRAME_BYTES_MAX:
            raise FrameError(ErrorCode.TOO_LARGE, "the frame is larger than 64 KiB")
        if isinstance(data, str):
            try:
                data = data.encode()
            except UnicodeEncodeError:
                raise FrameError(ErrorCode.BAD_FRAME, "not UTF-8") from None
            if len(data) > FRAME_BYTES_MAX:
                raise FrameError(ErrorCode.TOO_LARGE, "the frame is larger than 64 KiB")
        try:
            frame = from_json(data, allow_inf_nan=False, cache_strings="keys")
        except (ValueError, OverflowError, TypeError, RecursionError):
            raise _bad_frame("not a JSON object in UTF-8", _salvage_json(data)) from None
        if type(frame) is not dict:
            raise FrameError(ErrorCode.BAD_FRAME, "a frame is an object")
        if len(data) > UPDATE_BYTES_MAX and frame.get("t") == "update":
            raise FrameError(ErrorCode.TOO_LARGE, "the update is larger than 32 KiB", find_seq(frame))
        return frame

    def encode(self, frame: dict[str, Any]) -> bytes:
        return self._encode(frame).encode()

    def encode_ack(self, seq: int, version: int, saved: int) -> bytes:
        return b'{"t":"ack","seq":%d,"version":%d,"saved":%d}' % (seq, version, saved)


# An ack in msgpack with all three numbers in four bytes each, which makes the rest of it constant.
_ack_format: Final = Struct(">12sI9sI7sI")
_pack_ack: Final = _ack_format.pack
_unpack_ack: Final = _ack_format.unpack
_ACK_BYTES: Final = _ack_format.size
_ACK_SEQ: Final = b"\x84\xa1t\xa3ack\xa3seq\xce"
_ACK_VERSION: Final = b"\xa7version\xce"
_ACK_SAVED: Final = b"\xa5saved\xce"

# What stands before the number of a `saved`; the byte that says how long it is, by the length of the frame.
_SAVED_SEQ: Final = b"\x82\xa1t\xa5saved\xa3seq"
_SAVED_BYTES: Final = len(_SAVED_SEQ) + 1
PLAIN_BYTES_MAX: Final = _ACK_BYTES
"""What is longer is neither what `decode_ack` reads nor what `decode_saved` does."""
assert _SAVED_BYTES + 4 <= PLAIN_BYTES_MAX
_SAVED_KINDS: Final = {_SAVED_BYTES + 1: 0xCC, _SAVED_BYTES + 2: 0xCD, _SAVED_BYTES + 4: 0xCE}

# What stands before `seq` in an update, by how many fields its body has.
_UPDATE_HEADS: Final = tuple(bytes((0x80 | 2 + fields,)) + b"\xa1t\xa6update\xa3seq" for fields in range(14))

MSGPACK: Final = MsgpackCodec()
JSON: Final = JsonCodec()

SUBPROTOCOLS: Final[tuple[str, ...]] = (MSGPACK.subprotocol, JSON.subprotocol)
"""In the order a gateway prefers them."""

_BY_SUBPROTOCOL: Final[dict[str, Codec]] = {MSGPACK.subprotocol: MSGPACK, JSON.subprotocol: JSON}
_BY_NAME: Final[dict[str, Codec]] = {MSGPACK.name: MSGPACK, JSON.name: JSON}


def codec_for(subprotocol: str | None) -> Codec:
    """The codec of a negotiated subprotocol; JSON where none was offered or none is ours."""
    return _BY_SUBPROTOCOL.get(subprotocol or "", JSON)


def codec_named(name: str) -> Codec:
    """Raises KeyError for a name that is neither "msgpack" nor "json"."""
    return _BY_NAME[name]


# ── what decoding leans on ──────────────────────────────────────────────────────────────────────────────────────────


def _refuse_ext(code: int, data: bytes) -> NoReturn:
    # A length limit of 0 does not stop an extension of no bytes.
    raise ValueError("extension types have no place in a frame")


def _bad_frame(message: str, salvaged: dict[str, Any]) -> FrameError:
    return FrameError(ErrorCode.BAD_FRAME, message, find_seq(salvaged), find_id(salvaged))


# 16 arrays of the largest size are 2 MiB: nothing to worry about.
_LONG_ARRAYS_TRUSTED: Final = 16


def _check_shape(data: bytes) -> None:
    """Refuse a msgpack frame that claims more items than it has bytes, or nests too deep, without building it."""
    position, end = 0, len(data)
    open_items = [1]
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        open_items[-1] -= 1
        if position >= end:
            raise _bad_frame("not a msgpack map within the limits", {})
        head = data[position]
        position += 1
        items = 0
        if head <= 0x7F or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3):
            continue
        if head <= 0x8F:
            items = 2 * (head & 0x0F)
        elif head <= 0x9F:
            items = head & 0x0F
        elif head <= 0xBF:
            position += head & 0x1F
        elif head in _FIXED_BYTES:
            position += _FIXED_BYTES[head]
        elif head in _LENGTH_BYTES:
            width = _LENGTH_BYTES[head]
            length = int.from_bytes(data[position : position + width], "big")
            position += width
            if head <= 0xDB:
                position += length
            else:
                items = length if head <= 0xDD else 2 * length
        else:
            raise _bad_frame("not a msgpack map within the limits", _salvage_msgpack(data))
        if items:
            if items > end - position or len(open_items) >= DECODE_DEPTH_MAX:
                raise _bad_frame("not a msgpack map within the limits", _salvage_msgpack(data))
            open_items.append(items)


# Numbers: the bytes behind the head. Strings, arrays and maps: the bytes of the length behind the head.
_FIXED_BYTES: Final = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_LENGTH_BYTES: Final = {
    0xC4: 1,
    0xC5: 2,
    0xC6: 4,
    0xD9: 1,
    0xDA: 2,
    0xDB: 4,
    0xDC: 2,
    0xDD: 4,
    0xDE: 2,
    0xDF: 4,
}

# A frame that cannot be decoded still names its update or query when `seq` or `id` come before the damage: the client
# needs the number to send a skip. This is for clients of ours gone wrong, so a few fields are enough.
_SALVAGE_FIELDS_MAX: Final = 16


def _salvage_msgpack(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    unpacker = msgpack.Unpacker(
        raw=False,
        max_str_len=256,
        max_bin_len=0,
        max_ext_len=0,
        max_array_len=0,
        max_map_len=0,
        ext_hook=_refuse_ext,
        max_buffer_size=FRAME_BYTES_MAX + 1,
    )
    try:
        unpacker.feed(data)
        header = _read_map_header(data)
        if header is None:
            return found
        count, offset = header
        unpacker.read_bytes(offset)
        for _ in range(min(count, _SALVAGE_FIELDS_MAX)):
            key = unpacker.unpack()
            if key in ("seq", "id"):
                found[key] = unpacker.unpack()
            else:
                unpacker.skip()
    except (ValueError, OverflowError, TypeError, RecursionError, msgpack.UnpackException):
        pass
    return found


def _read_map_header(data: bytes) -> tuple[int, int] | None:
    """(items, bytes of the header) of the map that `data` opens with; None when it is not a map."""
    if not data:
        return None
    head = data[0]
    if 0x80 <= head <= 0x8F:
        return head & 0x0F, 1
    if head == 0xDE and len(data) >= 3:
        return int.from_bytes(data[1:3], "big"), 3
    return None


_JSON_FIELD: Final = re.compile(r'\s*"([a-z_]{1,32})"\s*:\s*')
_JSON_SEPARATOR: Final = re.compile(r"\s*,")
_JSON_SEQ: Final = re.compile(r"(\d{1,16})(?![\d.eE])")


def _salvage_json(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    text = data.decode("utf-8", "replace")
    opening = re.match(r"\s*\{", text)
    if opening is None:
        return found
    position = opening.end()
    decoder = json.JSONDecoder()
    try:
        for _ in range(_SALVAGE_FIELDS_MAX):
            field = _JSON_FIELD.match(text, position)
            if field is None:
                break
            name, position = field.group(1), field.end()
            if name == "seq":
                number = _JSON_SEQ.match(text, position)
                if number is None or int(number.group(1)) > SEQ_MAX:
                    break
                found["seq"], position = int(number.group(1)), number.end()
            else:
                value, position = decoder.raw_decode(text, position)
                if name == "id":
                    found["id"] = value
            separator = _JSON_SEPARATOR.match(text, position)
            if separator is None:
                break
            position = separator.end()
    except (ValueError, RecursionError):
        pass
    return found
