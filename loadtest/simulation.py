"""
One simulated player: a scenario, a schedule that waits for nobody, and phones with the real client on them.

Promise: updates are made when they are due, whether or not the gateway keeps up (an open loop), and each is in the
history before it is sent. The player never mends anything by itself: connections, resumes and repeats are the client's.

Not here: what a player does (scenario.py), what happens to it (muddy_player.py), how many there are (run_players.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from loadtest.experience import Experience
from loadtest.game import Game, draw_until
from loadtest.link import Link
from loadtest.phone import Account, Phone
from loadtest.recording import Recording
from loadtest.scenario import Doing, Pause, Query, Simple, Suspend, Update
from loadtest.track import Track
from protocol.client.journal import JournalBroken, JournalFull
from protocol.client.player_client import ClientStopped, QueryRefused, UpdateRefused
from protocol.closes import CloseCode

# A walk through a tunnel (--offline-rate): the player goes on making updates without a connection.
AWAY_S_MIN, AWAY_S_MAX = 1.0, 5.0
OPEN_AGAIN_S_MIN, OPEN_AGAIN_S_MAX = 0.3, 2.0
STEPS_AT_ONCE_MAX = 50
SETTLE_TRIES_MAX = 3


class Player:
    """Player number `index`; also what a scenario sees of it (`PlayerView`)."""

    __slots__ = (
        "_account",
        "_active",
        "_due_ms",
        "_game",
        "_is_gone",
        "_is_open",
        "_jobs",
        "_link",
        "_phones",
        "_steps",
        "_task",
        "_until_away",
        "index",
        "random",
    )

    def __init__(self, index: int, account: Account, rng: random.Random, game: Game) -> None:
        self.index = index
        self.random = rng
        self._account = account
        self._game = game
        self._link = Link(rng, game.mud.latency_ms, game.mud.jitter_ms) if game.mud.has_link else None
        self._phones: list[Phone] = []
        self._active = 0
        self._steps: Iterator[Doing] | None = None
        self._due_ms = 0.0
        self._is_open = False  # the app, as its player wants it
        self._is_gone = False
        self._jobs: list[Callable[[], Coroutine[Any, Any, None]]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._until_away = draw_until(rng, game.away_rate) if game.away_rate else 0
        game.writer.add_player(index, account.user_id, account.experience, is_whole=account.is_new)
        self._add_phone()

    # --- what a scenario sees ----------------------------------------------------------------------------------------

    @property
    def players(self) -> int:
        return self._game.players

    @property
    def experience(self) -> Experience:
        return self._game.experience

    @property
    def tracks(self) -> Sequence[Track]:
        return self._game.tracks

    @property
    def seconds(self) -> float:
        return self._game.seconds

    @property
    def rate_per_s(self) -> float | None:
        return self._game.rate_per_s

    @property
    def now_s(self) -> float:
        return (self._due_ms - self._game.play_from_ms) / 1000

    # --- what the process does with it -------------------------------------------------------------------------------

    @property
    def phone(self) -> Phone:
        """The one in the hand."""
        return self._phones[self._active]

    @property
    def state(self) -> str:
        """For the figures: playing, suspended, connecting, offline or stopped."""
        client = self.phone.client
        if client.connected:
            return "suspended" if client.is_suspended else "playing"
        if client.is_running:
            return "connecting"
        return "stopped" if client.stop_code is not None else "offline"

    def arrive(self, from_ms: float, until_ms: float | None) -> None:
        """Plan this player's coming and going."""
        schedule = self._game.schedule
        schedule.at(from_ms, self._begin)
        if until_ms is not None:
            schedule.at(until_ms, self._go)

    def _begin(self, due_ms: float) -> None:
        game = self._game
        if game.is_over:
            return
        self._due_ms = due_ms
        self._steps = game.scenario.play(self)
        if not game.scenario.is_closed_at_first:
            self._open()
        if game.session_s is not None:
            game.schedule.at(due_ms + game.session_s.draw(self.random) * 1000, self._end_session)
        self._go_on(due_ms)

    def _go_on(self, due_ms: float) -> None:
        """Do everything that is due."""
        game, steps = self._game, self._steps
        if steps is None or self._is_gone:
            return
        now, over_ms, pace = game.schedule.turn_ms, game.over_ms, game.pace
        for _ in range(STEPS_AT_ONCE_MAX):
            if game.is_over or self._due_ms >= over_ms:
                return
            try:
                step = next(steps, None)
            except Exception as fault:
                game.fail(fault)
                step = None
            if step is None:
                self._steps = None
                return
            if type(step) is Pause:
                seconds, is_think, is_fixed = step
                if is_think and game.think_s is not None:
                    seconds = game.think_s.draw(self.random)
                if seconds > 0:
                    self._due_ms += seconds * 1000 / (1.0 if is_fixed else pace)
                if self._due_ms > now:
                    game.schedule.at(self._due_ms, self._go_on)
                    return
            elif type(step) is Update:
                self._make(step)
            else:
                self._do(step)
        game.schedule.at(max(now, self._due_ms), self._go_on)

    def _do(self, step: Doing) -> None:
        if type(step) is Suspend:
            if self.phone.client.connected:
                self._job(lambda: self._suspend(step.expected_s))
        elif type(step) is Query:
            if self.phone.client.connected:
                self._job(lambda: self._query(step))
        elif type(step) is Simple:
            self._do_simple(step.what)
        else:
            self._game.fail(TypeError(f"a scenario yields what its helpers make (event, pause, …), not {step!r}"))

    def _do_simple(self, what: str) -> None:
        if what == "drop":
            self._drop()
        elif what == "wake":
            self.phone.client.wake()
        elif what == "open":
            self._open()
        elif what == "close":
            self._close()
        elif what == "leave":
            self._job(self._leave)
        elif what == "watch" and self._game.watch is not None:
            self._job(self._watch)

    # --- making updates ----------------------------------------------------------------------------------------------

    def _make(self, step: Update) -> None:
        game, phone = self._game, self._phones[self._active]
        event, effects, is_durable, past_s, expected_code = step
        recording = phone.recording
        if self._until_away:
            self._until_away -= 1
            if not self._until_away:
                self._until_away = draw_until(self.random, game.away_rate)
                self._go_away()
        if not self._is_open or (self._link is not None and self._link.down_until_s):
            recording.is_away = True
        # An ErrorCode or somebody's own kind of integer: the history takes plain ones.
        recording.making = (self._due_ms, None if expected_code is None else int(expected_code))
        if event is not None and (past_s or "lat" in event or recording.clock_skew_ms):
            at_ms = game.schedule.now_ms() - past_s * 1000 + recording.clock_skew_ms
            event = {**event, "at": int(at_ms)}
        try:
            if game.has_disks and not phone.client.is_running:
                # A closed app makes updates all the same (offline-return): the journal takes them with the next.
                self._job(lambda: self._make_closed(phone, event, step, recording.making))
            else:
                phone.client.make(event, effects, is_durable)
        except (JournalFull, JournalBroken, UpdateRefused):
            self._refuse()

    async def _make_closed(
        self, phone: Phone, event: dict[str, Any] | None, step: Update, making: tuple[float, int | None]
    ) -> None:
        phone.recording.making = making
        try:
            await phone.client.update(event, step.effects, step.is_durable)
        except (JournalFull, JournalBroken, UpdateRefused, OSError):
            self._refuse()

    def _refuse(self) -> None:
        self._game.tally.refused += 1
        self._game.writer.add_refused(self.index)

    def _go_away(self) -> None:
        """The connection is cut, or the player is offline for a while."""
        game = self._game
        is_drop = self.random.random() * game.away_rate < game.drop_rate
        if not self._is_open:
            return
        if is_drop:
            self._drop()
        else:
            self._close()
            away_s = self.random.uniform(AWAY_S_MIN, AWAY_S_MAX)
            game.schedule.at(game.schedule.now_ms() + away_s * 1000, lambda _: self._open())

    def _drop(self) -> None:
        phone = self.phone
        if phone.client.connected:
            phone.recording.is_away = True
            phone.client.drop_connection()

    # --- the app -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if not self._is_gone:
            self._is_open = True
            self._job(self._start)

    def _close(self) -> None:
        self._is_open = False
        self._job(self._stop)

    def _go(self, due_ms: float) -> None:
        """Leave for good: the ramp goes down."""
        self._is_gone = True
        self._is_open = False
        self._job(self._leave)

    def _end_session(self, due_ms: float) -> None:
        """--session-s is over; --away-s says when the next session begins."""
        game = self._game
        if game.is_over or self._is_gone or game.session_s is None:
            return
        self._is_open = False
        self._job(self._leave)
        away_s = game.away_s.draw(self.random) if game.away_s is not None else 0.0
        back_ms = due_ms + max(0.1, away_s) * 1000
        game.schedule.at(back_ms, lambda _: self._open())
        game.schedule.at(back_ms + game.session_s.draw(self.random) * 1000, self._end_session)

    async def _start(self) -> None:
        if self._is_open and not self._game.is_over:
            self.phone.start()

    async def _stop(self) -> None:
        await self.phone.client.stop()

    async def _leave(self) -> None:
        await self.phone.client.leave()

    async def _suspend(self, expected_s: int) -> None:
        await self.phone.client.suspend(expected_s)

    async def _query(self, step: Query) -> None:
        await self.phone.client.query(step.of, step.args)

    async def _watch(self) -> None:
        game = self._game
        assert game.watch is not None
        game.tally.watched += 1
        try:
            await game.watch()
        except (OSError, EOFError, ValueError, TimeoutError):
            game.tally.watch_failures += 1

    # --- phones -------------------------------------------------------------------------------------------------------

    def _add_phone(self) -> None:
        game = self._game
        recording = Recording(self.index, game.writer, game.tally)
        skew_s = game.mud.clock_skew_s
        recording.clock_skew_ms = round(self.random.uniform(-skew_s, skew_s) * 1000) if skew_s else 0
        self._phones.append(
            Phone(
                self._account,
                recording,
                self.random,
                link=self._link,
                has_disk=game.has_disks,
                source_address=game.find_source(self.index, 0),
            )
        )

    # --- one thing after the other -----------------------------------------------------------------------------------

    def _job(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what takes a while, after what was asked for before."""
        if job == self._start and self._task is None and not self._game.is_over:
            if self._is_open:
                self.phone.start()
            return
        if self._jobs is None:
            self._jobs = []
        self._jobs.append(job)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._do_jobs())

    async def _do_jobs(self) -> None:
        try:
            while self._jobs:
                job = self._jobs.pop(0)
                try:
                    await job()
                except (TimeoutError, ClientStopped, QueryRefused, JournalBroken, RuntimeError, OSError):
                    pass  # what became of updates is in the history; a question without an answer is none
        finally:
            self._task = self._jobs = None

    # --- the end -----------------------------------------------------------------------------------------------------

    async def settle(self) -> bool:
        """The mud is over: wait until everything this player made is saved; False when it was not in time."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._game.settle_s)
        if self._link is not None:
            self._link.latency_ms = self._link.jitter_ms = 0.0
            self._link.come_up(is_forgotten=False)
        for number in [self._active, *(n for n in range(len(self._phones)) if n != self._active)]:
            client = self._phones[number].client
            if client.saved >= client.made:
                continue
            for other in self._phones:  # two at once would take the session from each other
                if other.client is not client:
                    await other.client.stop()
            self._active = number
            if not await self._settle_phone(self._phones[number]):
                return False
        return True

    async def _settle_phone(self, phone: Phone) -> bool:
        client = phone.client
        for _ in range(SETTLE_TRIES_MAX):
            if not client.is_running and client.stop_code in (None, CloseCode.REPLACED):
                phone.start()
            client.wake()
            try:
                while client.saved < client.made:
                    await client.wait_saved(client.made, self._game.settle_s)
                return True
            except TimeoutError:
                return False
            except ClientStopped:
                continue  # the last word of another phone; this one is the only one now
        return False

    async def leave(self) -> None:
        for phone in self._phones:
            # A phone that is not connected has nothing to say goodbye to; its session ends by itself.
            await (phone.client.leave() if phone.client.connected else phone.client.stop())
