"""
The bytes of a journal file: two copies of a header, then records; and what a file proves, whatever happened to it.

Pure: bytes in, what they say out.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

import msgpack

from protocol.client.held_updates import ENTRIES_MAX
from protocol.client.journal_errors import JournalDamaged, StreamIdentity

FORMAT: Final = 1
MAGIC: Final = b"WAYHOLDJ"
# Two copies of the header, each in a slot of its own: one bad sector must not make all records anonymous.
HEADER_SLOT_BYTES: Final = 1024
RECORDS_START: Final = 2 * HEADER_SLOT_BYTES
_HEADER: Final = struct.Struct("<8sII")  # magic, length and crc32 of the body
_RECORD: Final = struct.Struct("<IIQ")  # length of the payload, crc32 over length + seq + payload, seq
RECORD_HEAD_BYTES: Final = _RECORD.size
_CRC_HEAD: Final = struct.Struct("<IQ")
# Stands for a payload that the disk lost. 0xC1 is the one byte that msgpack never uses: nothing can decode it.
DAMAGED: Final = b"\xc1"
# So many records in a row can be damaged and still leave a seq; more is no journal but noise.
SEQ_JUMP_MAX: Final = 2 * ENTRIES_MAX


class Header(NamedTuple):
    device: str
    identity: StreamIdentity
    made: int  # what records may not tell any more: the highest seq used and saved when the file was written
    saved: int
    moved_at: int | None


class Contents(NamedTuple):
    """
    What could be read of a file. `good_bytes`: up to where it can be appended to; None: it must be written anew.
    """

    header: Header
    payloads: dict[int, bytes]
    made: int
    saved: int
    good_bytes: int | None


def encode_record(seq: int, payload: bytes) -> bytes:
    """One record; an empty payload says that everything up to `seq` is saved."""
    return _RECORD.pack(len(payload), _crc_of(seq, payload), seq) + payload


def encode_header(header: Header) -> bytes:
    body: bytes = msgpack.packb(
        {
            "format": FORMAT,
            "device": header.device,
            "server": header.identity.server,
            "player": header.identity.player,
            "experience": header.identity.experience,
            "made": header.made,
            "saved": header.saved,
            "moved_at": header.moved_at,
        }
    )
    slot = _HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body
    if len(slot) > HEADER_SLOT_BYTES:
        raise ValueError(f"server, player, experience and device together are longer than {HEADER_SLOT_BYTES} bytes")
    return slot.ljust(HEADER_SLOT_BYTES, b"\0")


def read_journal(path: Path, data: bytes) -> Contents:
    """Everything a file proves by its checksums, whatever happened to it. Raises JournalDamaged without a header."""
    header = _find_header(path, data)
    payloads: dict[int, bytes] = {}
    made, saved = header.made, header.saved
    # The records that a rewrite wrote are below `made` of the header; those appended later follow it.
    next_seq = saved + 1
    position: int | None = RECORDS_START
    good_bytes: int | None = RECORDS_START
    while position is not None:
        record = _find_record_at(data, position, next_seq - 1)
        if record is None:
            resumed_at = _find_record_after(data, position, next_seq - 1)
            if resumed_at is not None:
                good_bytes = None  # damage with good records behind it
            position = resumed_at
            continue
        seq, payload = record
        if payload:
            for lost in range(next_seq, seq):
                payloads[lost] = DAMAGED
                good_bytes = None
            payloads[seq] = payload
            next_seq = seq + 1
        else:
            for lost in range(next_seq, seq + 1):
                payloads[lost] = DAMAGED
                good_bytes = None
            next_seq = max(next_seq, seq + 1)
            saved = max(saved, seq)
        position += RECORD_HEAD_BYTES + len(payload)
        if good_bytes is not None:
            good_bytes = position
    for lost in range(next_seq, made + 1):
        payloads[lost] = DAMAGED
        good_bytes = None
    made = max(made, next_seq - 1)
    payloads = {seq: payload for seq, payload in payloads.items() if seq > saved}
    if not _are_both_headers_good(data):
        good_bytes = None
    return Contents(header, payloads, made, saved, good_bytes)


def _find_record_at(data: bytes, position: int, made: int) -> tuple[int, bytes] | None:
    """The record that starts here, if it is one and can follow `made`: (seq, payload)."""
    if position + RECORD_HEAD_BYTES > len(data):
        return None
    length, crc, seq = _RECORD.unpack_from(data, position)
    end = position + RECORD_HEAD_BYTES + length
    if end > len(data) or seq > made + SEQ_JUMP_MAX or (length and seq <= made) or not seq:
        return None
    payload = data[position + RECORD_HEAD_BYTES : end]
    return (seq, payload) if _crc_of(seq, payload) == crc else None


def _find_record_after(data: bytes, position: int, made: int) -> int | None:
    """Where the next good record starts behind a damaged one; None at the end: then it was a torn tail."""
    # A seq is below 2^53, so the last byte of every record's head is zero: jump from one to the next.
    head_end = RECORD_HEAD_BYTES - 1
    at = data.find(b"\0", position + 1 + head_end)
    while at != -1:
        start = at - head_end
        if _find_record_at(data, start, made) is not None:
            return start
        at = data.find(b"\0", at + 1)
    return None


def _find_header(path: Path, data: bytes) -> Header:
    reason = "it is no journal"
    for start in (0, HEADER_SLOT_BYTES):
        body = _find_header_body(data, start)
        if body is None:
            reason = "both headers are damaged"
            continue
        try:
            fields = msgpack.unpackb(body)
            if fields["format"] != FORMAT:
                raise JournalDamaged(path, f"its format is {fields['format']}, this program knows {FORMAT}")
            identity = StreamIdentity(fields["server"], fields["player"], fields["experience"])
            return Header(fields["device"], identity, fields["made"], fields["saved"], fields["moved_at"])
        except (ValueError, KeyError, TypeError, msgpack.UnpackException):
            reason = "its header cannot be read"
    raise JournalDamaged(path, reason)


def _find_header_body(data: bytes, start: int) -> bytes | None:
    if len(data) < start + _HEADER.size:
        return None
    magic, length, crc = _HEADER.unpack_from(data, start)
    body = data[start + _HEADER.size : start + _HEADER.size + length]
    if magic != MAGIC or length > HEADER_SLOT_BYTES - _HEADER.size or zlib.crc32(body) != crc:
        return None
    return body


def _are_both_headers_good(data: bytes) -> bool:
    slot = data[:HEADER_SLOT_BYTES]
    return len(slot) == HEADER_SLOT_BYTES and slot == data[HEADER_SLOT_BYTES:RECORDS_START]


def _crc_of(seq: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_CRC_HEAD.pack(len(payload), seq)))
