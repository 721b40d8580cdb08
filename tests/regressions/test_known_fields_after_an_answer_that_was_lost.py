"""
One call takes updates of many players, and those that were not what was foreseen are asked about in a second one. When
that one failed, nobody was told of what the first had done, but it was still known. A Redis that came back from before
it and had moved on by as many versions was then believed: a step was counted twice, an operator's not at all.
"""

from __future__ import annotations

from typing import Any

import pytest

from persistence.actions.issuer import Issued
from persistence.errors import StoreFull, StoreUnavailable
from persistence.hot.known_fields import KnownFields
from tests.stores.conftest import Stores
from tests.stores.conftest import stores as stores
from tests.stores.test_actions import Desk

STEP = [{"op": "incr", "path": "steps", "value": 1}]


@pytest.mark.parametrize("error", [StoreFull("apply_updates"), StoreUnavailable("redis", "apply_updates", "gone")])
async def test_what_nobody_was_told_is_not_known(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    player, other = stores.player(), stores.player()
    for one in (player, other):
        await one.hello()
        await one.send(one.make(None, STEP))
    keys = [stores.hot._keys.progress(player.key), stores.hot._keys.pending(player.key)]
    before = [await stores.hot._client.dump(key) for key in keys]

    # Somebody else writes for `other`, so that what is known of it is not so any more.
    known, other.known = other.known, KnownFields()
    await other.send(other.make(None, STEP))
    other.known = known
    apply, calls = stores.hot._apply, 0

    async def once(groups: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return await apply(groups)

    monkeypatch.setattr(stores.hot, "_apply", once)
    step = player.make(None, STEP)
    with pytest.raises(type(error)):
        await stores.hot.apply_updates([player.group(step), other.group(other.make(None, STEP))])
    assert calls == 2

    # Redis comes back from before, and an operator's action takes the version of the step.
    for key, held in zip(keys, before, strict=True):
        assert held is not None
        await stores.hot._client.restore(key, 0, held, replace=True)
    desk = Desk(stores)
    action = await desk.request(player, [{"op": "incr", "path": "steps", "value": 100}])
    assert (await desk.issuer.issue(action)).issued is Issued.ACCEPTED

    verdict = await player.send(step)
    assert (verdict.accepted, verdict.taken) == (2, 1)
    found = await stores.hot.find_progress(player.key)
    assert found is not None and found.fields["c:steps"] == b"102000000"
