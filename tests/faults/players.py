"""
The processes that hold the players of a fault run, as the run sees them: started, counted, killed, judged.

Owns the histories. `list_times` turns them into what a fault cost: how long after its end the first waiting update was
accepted, and saved.
"""

from __future__ import annotations

import asyncio
import bisect
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from loadtest.history import PlayerHistory, note_untold_voids, now_ms, read_histories
from loadtest.told_process import ToldProcess
from tests.faults.rig import Rig
from tests.faults.run_players import PlayersPlan

READY_S = 60.0
WORDS = ("ready", "played", "settled", "left")
LOOK_BACK_MS = 120_000.0


@dataclass(slots=True)
class Crowd:
    """Who plays in one round, and how."""

    players: int = 100
    rate_per_s: float = 4.0
    seconds: float = 60.0
    ramp_s: float = 2.0
    drop_rate: float = 0.001
    offline_rate: float = 0.0005
    settle_s: float = 90.0
    processes: int = 2


class PlayerProcesses:
    """All players of one round. Half of the processes keep journals in files, the others in memory."""

    def __init__(self, rig: Rig, crowd: Crowd, seed: int) -> None:
        self._rig = rig
        self._crowd = crowd
        self._folder = rig.folder / "players" / uuid.uuid4().hex
        self._plans: list[PlayersPlan] = []
        self._processes: list[ToldProcess] = []
        self._seed = seed
        self.start_ms = 0.0
        self.failures: list[str] = []
        """Clients that ended of an exception."""

    async def start(self) -> None:
        """Returns when all play."""
        crowd = self._crowd
        self._folder.mkdir()
        run_id = str(uuid.uuid4())
        each = -(-crowd.players // crowd.processes)
        for number in range(crowd.processes):
            first = number * each
            plan = PlayersPlan(
                url=self._rig.play_url,
                secret=self._rig.secret,
                run_id=run_id,
                first=first,
                players=min(each, crowd.players - first),
                random_seed=self._seed,
                history=str(self._folder / f"history-{number}.history"),
                journals=str(self._folder) if number % 2 else None,
                habits={
                    "rate_per_s": crowd.rate_per_s,
                    "seconds": crowd.seconds,
                    "ramp_s": crowd.ramp_s,
                    "drop_rate": crowd.drop_rate,
                    "offline_rate": crowd.offline_rate,
                    "settle_s": crowd.settle_s,
                },
            )
            self._plans.append(plan)
            self._processes.append(await ToldProcess.start("tests.faults.run_players", asdict(plan), WORDS))
        for process in self._processes:
            assert await process.wait_for("ready", READY_S) is not None, "a process of players did not start"
        self.start_ms = now_ms() + 100
        for process in self._processes:
            await process.order("start", start_ms=self.start_ms)
        await asyncio.sleep(crowd.ramp_s + 0.5)

    def sum(self, what: str) -> int:
        """A count over all processes, a fifth of a second old."""
        return sum(int(process.counts.get(what, 0)) for process in self._processes)

    @property
    def left_s(self) -> float:
        """How long they go on making updates."""
        return (self.start_ms - now_ms()) / 1000 + self._crowd.ramp_s + self._crowd.seconds

    async def race(self, players: int) -> None:
        for process in self._processes:
            await process.order("race", players=players)

    async def wait_saved(self, deadline_s: float) -> bool:
        """
        Until something that was made before now is accepted and something saved, or it takes too long. Seen through
        counts, so it is for pacing; what is printed comes from the histories.
        """
        accepted, saved = self.sum("accepted"), self.sum("saved")
        give_up_at = time.monotonic() + deadline_s
        while self.sum("accepted") <= accepted or self.sum("saved") <= saved:
            if time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(0.05)
        return True

    async def wait_settled(self) -> int:
        """Until everybody has played and everything is saved; answers how many players that is not true of."""
        deadline_s = max(0.0, self.left_s) + self._crowd.settle_s + 10
        said = await asyncio.gather(*(process.wait_for("settled", deadline_s) for process in self._processes))
        self.failures = [failure for facts in said if facts is not None for failure in facts.get("failures", ())]
        return sum(
            plan.players if facts is None else int(facts["unsettled"])
            for plan, facts in zip(self._plans, said, strict=True)
        )

    async def leave(self) -> None:
        for process in self._processes:
            await process.order("leave")
        await asyncio.gather(*(process.wait_for("left", 30) for process in self._processes))
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL: they never return."""
        for process in self._processes:
            process.kill()
        await asyncio.gather(*(process.wait_end(10) for process in self._processes))

    async def play_for(self, seconds: float) -> None:
        """Let them play until this long after the start of the last one."""
        until_ms = self.start_ms + (self._crowd.ramp_s + seconds) * 1000
        await asyncio.sleep(max(0.0, (until_ms - now_ms()) / 1000))

    def delete_journals(self) -> None:
        """The devices are gone; what players did and heard stays in their histories."""
        for path in self._folder.glob("player-*"):
            path.unlink()

    def histories(self) -> list[PlayerHistory]:
        histories = read_histories(sorted(self._folder.glob("history-*.history")))
        note_untold_voids(histories)
        return histories


@dataclass(frozen=True, slots=True)
class Recovery:
    """What players saw of one fault: times from its end, of updates that had been made before it."""

    in_flight: int
    """Updates made and not saved when it was injected."""
    updates: int
    """Those, and what was made from then until the first was saved after it."""
    first_ack_ms: float | None
    last_ack_ms: float | None
    first_saved_ms: float | None


class Timeline:
    """All updates of a round in the order they were made, to look up what a fault met."""

    def __init__(self, histories: Sequence[PlayerHistory]) -> None:
        self._steps = sorted((step for history in histories for step in history.steps), key=lambda step: step.made_ms)
        self._made = [step.made_ms for step in self._steps]

    def look_up(self, injected_ms: float, healed_ms: float) -> Recovery:
        start = bisect.bisect_left(self._made, injected_ms - LOOK_BACK_MS)
        at_injection = bisect.bisect_right(self._made, injected_ms)
        at_heal = bisect.bisect_right(self._made, healed_ms)
        before = self._steps[start:at_injection]
        in_flight = sum(step.saved_ms is None or step.saved_ms > injected_ms for step in before)
        waiting = self._steps[start:at_heal]
        acks = [step.accepted_ms for step in waiting if step.accepted_ms is not None and step.accepted_ms > healed_ms]
        saves = [step.saved_ms for step in waiting if step.saved_ms is not None and step.saved_ms > healed_ms]
        made = bisect.bisect_right(self._made, min(saves, default=healed_ms)) - at_injection
        return Recovery(
            in_flight=in_flight,
            updates=in_flight + made,
            first_ack_ms=min(acks) - healed_ms if acks else None,
            last_ack_ms=max(acks) - healed_ms if acks else None,
            first_saved_ms=min(saves) - healed_ms if saves else None,
        )
