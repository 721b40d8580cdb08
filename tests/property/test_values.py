"""`canonical_json` writes one value one way, and counters are exact decimals. Through PostgreSQL: see tests/stores."""

import json
import math
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.limits import COUNTER_MAX, MILLIONTHS_MAX
from protocol.values import (
    ValueRefused,
    canonical_json,
    decimal_to_millionths,
    is_clean_text,
    millionths_number,
    millionths_text,
    parse_json,
    to_millionths,
)
from tests.property.made_values import anything, values


@given(values)
def test_what_is_written_reads_back_and_is_written_the_same(value: Any) -> None:
    written = canonical_json(value)
    assert canonical_json(parse_json(written)) == written
    assert canonical_json(parse_json(written.decode())) == written
    assert json.loads(written) == value


@given(values)
def test_the_order_of_keys_does_not_show(value: Any) -> None:
    assert canonical_json(turned_around(value)) == canonical_json(value)


@given(anything)
def test_anything_is_written_or_refused(value: Any) -> None:
    try:
        written = canonical_json(value)
    except ValueRefused as refused:
        assert len(str(refused)) < 100
    else:
        assert canonical_json(parse_json(written)) == written


@given(st.text() | st.text(alphabet="\0\ud800\udfffa"))
def test_clean_text_is_text_that_can_be_written(text: str) -> None:
    try:
        canonical_json(text)
        written = True
    except ValueRefused:
        written = False
    assert is_clean_text(text) == written


@given(st.floats() | st.integers())
@example(1.2)
@example(0.0000005)
@example(0.0000015)
@example(0.0000035)
@example(-0.0)
@example(9_000_000_000.0000005)
@example(8_999_999_999.9999995)
@example(-9_000_000_000)
@example(math.nextafter(9e9, math.inf))
@example(999_999.9999995)
@example(10**400)
@example(0.0327105)
@example(0.0004955)
@example(-32.3451695)
def test_millionths_are_the_shortest_decimal_rounded_half_even(number: float) -> None:
    decimal = Decimal(repr(number))
    expected: int | None = None
    if decimal.is_finite() and abs(decimal) < 2 * COUNTER_MAX:
        expected = int((decimal * 1_000_000).to_integral_value(ROUND_HALF_EVEN))
    if expected is None or abs(expected) > MILLIONTHS_MAX:
        with pytest.raises(ValueRefused):
            to_millionths(number)
    else:
        assert to_millionths(number) == expected


@given(st.integers(-MILLIONTHS_MAX, MILLIONTHS_MAX), st.sampled_from(["5", "49999", "50001"]))
def test_millionths_near_a_half(millionths: int, behind: str) -> None:
    """
    The quick way and the decimal way must agree exactly where rounding is hard: 0.0327105 times a million is a little
    more than 32710.5 in floats, and yet a half in decimals.
    """
    whole, places = divmod(abs(millionths), 1_000_000)
    number = float(f"{'-' if millionths < 0 else ''}{whole}.{places:06d}{behind}")
    try:
        assert to_millionths(number) == decimal_to_millionths(Decimal(repr(number)))
    except ValueRefused:
        assert abs(millionths) >= MILLIONTHS_MAX - 1


@given(st.integers(-MILLIONTHS_MAX, MILLIONTHS_MAX))
def test_a_counter_reads_back_from_its_text(millionths: int) -> None:
    text = millionths_text(millionths)
    assert decimal_to_millionths(Decimal(text)) == millionths
    assert "e" not in text and not (text.endswith("0") and "." in text)


# Above 2^33 two neighbouring millionths may share a float, so a number cannot tell them apart (the text can).
@given(st.integers(-(2**33) * 1_000_000, 2**33 * 1_000_000))
def test_a_counter_reads_back_from_its_number(millionths: int) -> None:
    assert to_millionths(millionths_number(millionths)) == millionths


@given(st.text(max_size=60) | st.text(alphabet='[]{}",:0123456789eE+-. nulltruefals\\u', max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse_json(text)
    except ValueRefused:
        pass


def turned_around(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: turned_around(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return [turned_around(item) for item in value]
    return value
