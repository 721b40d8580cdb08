"""Pages of the table of sessions: everybody once, in the order that was asked for, also where many are equal."""

from __future__ import annotations

import random
import uuid

import pytest

from gateway.liveops.live.table import SORTS, SessionQuery, Snapshot
from persistence.viewing import Row


def make_rows(count: int) -> list[Row]:
    dice = random.Random(count)
    return [
        Row(
            *(str(uuid.UUID(int=dice.getrandbits(128))), f"session-{number}", dice.choice("ab"), f"Phone-{number}"),
            *(number, dice.randrange(5), dice.randrange(3), dice.randrange(7)),
            accepted=dice.randrange(4),
            rtt_ms=dice.choice([-1.0, 0.5, 2]),
            node=dice.choice(["n1", "n2"]),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("is_descending", [False, True])
def test_pages_hold_everybody_once_in_order_however_many_are_equal(sort: str, is_descending: bool) -> None:
    rows = make_rows(53)
    wanted = sorted(rows, key=lambda row: (SORTS[sort](row), row.user_id), reverse=is_descending)
    snapshot, seen, after = Snapshot(rows, 0.0), [], None
    while True:
        page, total, after = snapshot.list_page(SessionQuery(sort=sort, is_descending=is_descending), 0, 10, after)
        seen += page
        if after is None:
            break
        assert len(page) == 10 and total == 53
    assert seen == wanted


def test_who_is_meant_by_their_id_comes_before_whose_device_has_it_in_its_name() -> None:
    rows = make_rows(30)
    wanted = rows[7]
    snapshot = Snapshot(rows, 0.0)
    assert snapshot.list_meant(wanted.user_id[:13].upper(), 8) == [wanted]
    assert snapshot.list_meant("phone-7", 8) == [wanted]
    assert len(snapshot.list_meant("phone", 8)) == 8 and snapshot.list_meant("phon", 8) == []
    rows[3].device = wanted.user_id[:13]
    assert snapshot.list_meant(wanted.user_id[:13], 8) == [wanted, rows[3]]
    assert snapshot.list_meant(wanted.user_id[:13], 1) == [wanted]
