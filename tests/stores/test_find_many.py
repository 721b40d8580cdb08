"""Reading many players at once says of each what reading that player alone says."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace

import pytest

from persistence.cold.connect import is_refused
from persistence.cold.shapes import ColdProgress, ColdQuestion
from persistence.cold.tombstones import hash_of
from persistence.errors import PlayerErased, StoreUnavailable
from persistence.progress_key import ProgressKey
from tests.stores.conftest import Stores

HASH_OF_USER = """INSERT INTO erased_players (user_hash, device_hashes, erased_at)
VALUES ($1, $2, $3::text::timestamptz)"""


async def erase(stores: Stores, user_id: str, device: str, erased_at: str) -> None:
    """A tombstone as an erase leaves it; `erased_at` as Postgres reads it."""
    key = await stores.cold._find_hash_key()
    await stores.fetch(HASH_OF_USER, hash_of(key, "user", user_id), [hash_of(key, "device", device)], erased_at)


async def ban(stores: Stores, user_id: str, until: str | None, *, is_lifted: bool = False) -> None:
    await stores.fetch(
        "INSERT INTO bans (user_id, action_id, asked_at, until, message, operator, lifted_at, lifted_by) VALUES "
        "($1, gen_random_uuid(), now(), $2::text::timestamptz, 'no', 'somebody', "
        "CASE WHEN $3 THEN now() END, CASE WHEN $3 THEN 'somebody' END)",
        user_id,
        until,
        is_lifted,
    )


async def alone(stores: Stores, question: ColdQuestion) -> ColdProgress | PlayerErased | None:
    """What is said of one player, by the read that is for one."""
    if not question.creates:
        return await stores.cold.find_progress(question.key, question.device, question.session_id)
    try:
        return await stores.cold.open_progress(question.key, question.device, question.token_issued_at)
    except PlayerErased as erased:
        return erased


def said(answer: ColdProgress | PlayerErased | None) -> object:
    return PlayerErased if isinstance(answer, PlayerErased) else answer


async def make_questions(stores: Stores) -> list[ColdQuestion]:
    """Players of every kind that have rows: played, ended, banned in three ways, erased in four, in two experiences."""
    now = time.time()
    questions: list[ColdQuestion] = []
    played = stores.player()
    await played.hello()
    await played.send(played.make({"type": "waypoint_visited", "content_id": "w1"}))
    await stores.flush()
    ended = stores.player()
    await ended.hello()
    await ended.leave()
    await stores.flush()
    for player in (played, ended):
        questions += [
            ColdQuestion(player.key, "phone", player.session_id),
            ColdQuestion(player.key, "phone", str(uuid.uuid4())),
            ColdQuestion(player.key, "another phone"),
            ColdQuestion(player.key, "phone", None, True, now),
            ColdQuestion(player.key, "another phone", None, True),
        ]
    elsewhere = ProgressKey(played.key.user_id, "west-of-house")
    await stores.cold.open_progress(elsewhere, "phone")
    questions.append(ColdQuestion(elsewhere, "phone"))
    for until, is_lifted in ((None, False), ("2999-01-01", False), ("2001-01-01", False), (None, True)):
        key = ProgressKey(str(uuid.uuid4()), "wylding-woods")
        await stores.cold.open_progress(key, "phone")
        await ban(stores, key.user_id, until, is_lifted=is_lifted)
        questions += [ColdQuestion(key, "phone"), ColdQuestion(key, "phone", None, True, now)]
    for erased_at in ("infinity", "2001-01-01"):
        key = ProgressKey(str(uuid.uuid4()), "wylding-woods")
        await stores.cold.open_progress(key, "phone")
        await erase(stores, key.user_id, "old phone", erased_at)
        questions += [
            ColdQuestion(key, "phone"),
            ColdQuestion(key, "phone", None, True, now),
            ColdQuestion(key, "phone", None, True, 1.0),
            ColdQuestion(key, "phone", None, True),
            ColdQuestion(key, "old phone", None, True, now),
        ]
    return questions


async def test_a_read_of_many_says_of_each_what_a_read_of_one_says(stores: Stores) -> None:
    questions = await make_questions(stores)
    together = await stores.cold.find_many(questions)
    apart = [await alone(stores, question) for question in questions]
    assert list(map(said, together)) == list(map(said, apart))
    found = [answer for answer in together if isinstance(answer, ColdProgress)]
    # None of them agree for want of something to say.
    assert sum(isinstance(answer, PlayerErased) for answer in together) >= 5
    assert {answer.session_ended for answer in found} == {True, False}
    assert {answer.ban is None for answer in found} == {True, False}
    assert any(answer.erased_ms > 0 for answer in found) and any(answer.device_seq > 0 for answer in found)
    # In the order of the questions, whatever that is, and one by one too.
    assert list(map(said, await stores.cold.find_many(questions[::-1]))) == list(map(said, apart))[::-1]
    for question, answer in zip(questions, apart, strict=True):
        assert list(map(said, await stores.cold.find_many([question]))) == [said(answer)]


async def test_a_read_of_many_makes_nothing_and_refuses_first(stores: Stores) -> None:
    there = stores.player().key
    await stores.cold.open_progress(there, "phone")
    gone = ProgressKey(str(uuid.uuid4()), "wylding-woods")
    await erase(stores, gone.user_id, "phone", "2001-01-01")
    nobody = ProgressKey(str(uuid.uuid4()), "wylding-woods")
    questions = [
        ColdQuestion(nobody, "phone"),
        ColdQuestion(nobody, "phone", None, True, time.time()),
        ColdQuestion(ProgressKey(there.user_id, "never-played"), "phone", None, True, time.time()),
        ColdQuestion(there, "phone"),
        ColdQuestion(gone, "phone"),
        ColdQuestion(gone, "phone", None, True, time.time()),
        ColdQuestion(gone, "tablet", None, True, time.time()),
    ]
    users = await stores.fetch("SELECT count(*) FROM users")
    answers = [said(answer) for answer in await stores.cold.find_many(questions)]
    assert [answers[n] for n in (0, 1, 2, 4, 6)] == [None] * 5
    assert answers[5] is PlayerErased
    assert isinstance(answers[3], ColdProgress) and answers[3].key == there
    assert await stores.fetch("SELECT count(*) FROM users") == users
    assert await stores.fetch("SELECT count(*) FROM experience_progress") == [(1,)]


async def test_two_questions_about_one_player_are_answered_apart(stores: Stores) -> None:
    player = stores.player()
    await player.hello()
    await player.send(player.make({"type": "waypoint_visited", "content_id": "w1"}))
    await stores.flush()
    question = ColdQuestion(player.key, "phone")
    answers = await stores.cold.find_many([question, replace(question, device="tablet"), question])
    assert [isinstance(answer, ColdProgress) and answer.device_seq for answer in answers] == [1, 0, 1]


async def test_a_value_that_postgres_cannot_hold_fails_the_read_and_says_that_it_was_refused(stores: Stores) -> None:
    good = stores.player().key
    for bad in (ColdQuestion(ProgressKey("nobody", "x"), "phone"), ColdQuestion(good, "a\0b")):
        with pytest.raises(StoreUnavailable) as raised:
            await stores.cold.find_many([ColdQuestion(good, "phone"), bad])
        assert raised.value.__cause__ is not None and is_refused(raised.value.__cause__)


async def test_an_erase_between_a_read_of_many_and_its_install_keeps_it_out(stores: Stores) -> None:
    players = [stores.player() for _ in range(3)]
    for player in players:
        await stores.cold.open_progress(player.key, "phone")
    started_ms = await stores.hot.time_ms()
    answers = await stores.cold.find_many([ColdQuestion(player.key, "phone", None, True) for player in players])
    await stores.hot.purge_player(players[1].key.user_id, ["wylding-woods"])
    installed = await asyncio.gather(
        *(stores.hot.install(answer, started_ms) for answer in answers if isinstance(answer, ColdProgress))
    )
    assert [is_there for is_there, _ in installed] == [True, False, True]
