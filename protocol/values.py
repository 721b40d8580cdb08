"""
Values and numbers: what of a client's data may be kept, and the one way it is written.

Promise: `canonical_json` writes a value as bytes that PostgreSQL's JSONB takes and gives back unharmed: value → bytes →
JSONB → text → `parse_json` → `canonical_json` ends in the same bytes. Everything that some store or reader on the way
would refuse or silently change is refused here, before it is accepted: NaN, infinities, integers beyond 64 bits, NUL,
lone surrogates, nesting deeper than 16, and anything that is not JSON.

Counters are whole millionths, so that adding them is exact and its order does not matter.

Not here: how large a value may be (effects.py), and where it goes (state.py).
"""

import json
from decimal import ROUND_HALF_EVEN, Decimal
from json.encoder import encode_basestring as quoted
from typing import Any, Final

from protocol.limits import COUNTER_MAX, COUNTER_SCALE, INTEGER_MAX, INTEGER_MIN, MILLIONTHS_MAX, VALUE_DEPTH_MAX

__all__ = [
    "ValueRefused",
    "ValueTooLarge",
    "canonical_json",
    "canonical_text",
    "check_value",
    "decimal_to_millionths",
    "is_clean_text",
    "millionths_number",
    "millionths_text",
    "parse_json",
    "quoted",
    "to_millionths",
]

# `quoted(text)` is text as JSON, without a look at what is in it.


class ValueRefused(ValueError):
    """A value that cannot be kept. The message says why, and never quotes the value: it may be huge or hostile."""


class ValueTooLarge(ValueRefused):
    """A value that could be kept if there were less of it."""


def canonical_json(value: object, items_left: list[int] | None = None) -> bytes:
    """
    The value as JSON: compact, UTF-8, keys sorted by code point. One walk checks and writes.

    `items_left` is a list of one number: what is left of a bound on the items of arrays and maps that several values
    share. It bounds the time this takes.

    Raises:
        ValueTooLarge: it has more items than are left.
        ValueRefused: the value cannot be kept.
    """
    try:
        return canonical_text(value, items_left).encode()
    except UnicodeEncodeError:
        raise ValueRefused("text with a lone surrogate") from None


def canonical_text(value: object, items_left: list[int] | None = None) -> str:
    """As `canonical_json`, but text: whoever encodes it finds lone surrogates."""
    if type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX:
        return int.__repr__(value)
    return _write(value, 0, [_UNBOUNDED] if items_left is None else items_left)


def check_value(value: object) -> None:
    """Raises ValueRefused for a value that cannot be kept."""
    canonical_json(value)


def is_clean_text(text: str) -> bool:
    """Text that every store takes: no NUL, no lone surrogates."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str | bytes) -> Any:
    """
    JSON that this module or JSONB wrote, as a value. Integers beyond 64 bits become floats, because JSONB writes large
    floats as plain digits.

    Raises:
        ValueRefused: not JSON, or JSON that was never a value.
    """
    try:
        return _decoder.decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as refused:
        raise ValueRefused(f"not a JSON value: {type(refused).__name__}") from None


def to_millionths(number: object) -> int:
    """
    A counter's number in whole millionths: rounded half-even to 6 decimal places, as its shortest decimal is written.

    Raises:
        ValueRefused: not a number (a bool is none), not finite, or beyond 9,000,000,000.
    """
    if type(number) is int:
        if -COUNTER_MAX <= number <= COUNTER_MAX:
            return number * COUNTER_SCALE
        raise ValueRefused("a number beyond 9,000,000,000")
    if type(number) is not float:
        raise ValueRefused("not a number")
    scaled = number * COUNTER_SCALE
    if -_PLAINLY_ROUNDED < scaled < _PLAINLY_ROUNDED:
        nearest = round(scaled)
        # Below 10^12 the product is off by less than 0.001, so away from a half its rounding cannot be wrong.
        if -0.499 < scaled - nearest < 0.499:
            return nearest
    if scaled - scaled != 0.0 or not -2 * COUNTER_MAX < number < 2 * COUNTER_MAX:
        raise ValueRefused("a number that is not finite or beyond 9,000,000,000")
    return decimal_to_millionths(Decimal(repr(number)))


def decimal_to_millionths(number: Decimal) -> int:
    """Like `to_millionths`, for a number read from text without loss."""
    if not number.is_finite() or number.adjusted() > 10:
        raise ValueRefused("a number that is not finite or beyond 9,000,000,000")
    millionths = int(number.scaleb(6).to_integral_value(ROUND_HALF_EVEN))
    if not -MILLIONTHS_MAX <= millionths <= MILLIONTHS_MAX:
        raise ValueRefused("a number beyond 9,000,000,000")
    return millionths


def millionths_text(millionths: int) -> str:
    """A counter as the shortest decimal: "5280.5", "3", "-0.000001"."""
    whole, rest = divmod(abs(millionths), COUNTER_SCALE)
    sign = "-" if millionths < 0 else ""
    return f"{sign}{whole}" if not rest else f"{sign}{whole}.{rest:06d}".rstrip("0")


def millionths_number(millionths: int) -> int | float:
    """A counter as a number: an int when it is whole, else the nearest float."""
    whole, rest = divmod(millionths, COUNTER_SCALE)
    return millionths / COUNTER_SCALE if rest else whole


_PLAINLY_ROUNDED: Final = 1e12
_UNBOUNDED: Final = 2**62


def _write(value: Any, depth: int, items_left: list[int]) -> str:
    kind = type(value)
    if kind is str:
        if "\0" in value:
            raise ValueRefused("text with a NUL character")
        return quoted(value)
    if kind is int:
        if INTEGER_MIN <= value <= INTEGER_MAX:
            return int.__repr__(value)
        raise ValueRefused("an integer beyond 64 bits")
    if kind is float:
        return _write_float(value)
    if kind is dict:
        if depth >= VALUE_DEPTH_MAX:
            raise ValueRefused("nested deeper than 16")
        items_left[0] -= len(value)
        if items_left[0] < 0:
            raise ValueTooLarge("more than 4,096 items in one update")
        depth += 1
        parts = []
        try:
            keys = sorted(value) if len(value) > 1 else value
        except TypeError:
            raise ValueRefused("a key that is not text") from None
        for key in keys:
            if type(key) is not str:
                raise ValueRefused("a key that is not text")
            if "\0" in key:
                raise ValueRefused("a key with a NUL character")
            parts.append(f"{quoted(key)}:{_write(value[key], depth, items_left)}")
        return "{" + ",".join(parts) + "}"
    if kind is list:
        if depth >= VALUE_DEPTH_MAX:
            raise ValueRefused("nested deeper than 16")
        items_left[0] -= len(value)
        if items_left[0] < 0:
            raise ValueTooLarge("more than 4,096 items in one update")
        depth += 1
        return "[" + ",".join([_write(item, depth, items_left) for item in value]) + "]"
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    raise ValueRefused("something that is not JSON")


def _write_float(number: float) -> str:
    if -1e16 < number < 1e16:
        # JSONB has no negative zero.
        return repr(number) if number else "0.0"
    if number - number != 0.0:
        raise ValueRefused("a number that is not finite")
    # From 1e16 on, repr writes an exponent, which JSONB spells out. Up to 64 bits the digits would come back as an
    # integer, so they keep a ".0"; beyond, they come back as a float anyway.
    return f"{int(number)}.0" if -(2.0**63) < number < 2.0**63 else repr(number)


def _read_int(digits: str) -> int | float:
    number = int(digits)
    return number if INTEGER_MIN <= number <= INTEGER_MAX else float(number)


def _refuse_constant(name: str) -> Any:
    raise ValueRefused("a number that is not finite")


_decoder: Final = json.JSONDecoder(parse_int=_read_int, parse_constant=_refuse_constant)
