"""
Walk one player along a track and show each step accepted, then saved.

The walk survives the death of gateway, flusher and Redis by itself, because the client does; it survives its own death,
because the journal and the note beside it say where it was: the same command goes on.

`ok` in the last line means that every step of the walk was called saved, and that Postgres (where it can be read) holds
exactly these steps, in order, and the state they make.
"""

# The text above is shown by --help. Here: which player, which journal, the live lines, and the look into Postgres at
# the end. Not here: what the steps are (walk_plan.py), reconnecting and repeating (protocol.client).

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import jwt

from loadtest.audit import AuditReport, audit
from loadtest.experience import WYLDING_WOODS, find_experience, make_unknown_experience
from loadtest.history import PlayerHistory, Step, now_ms
from loadtest.target import (
    EXIT_BAD,
    EXIT_DEPENDENCY,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Target,
    TargetMissing,
    TargetRefused,
    add_target_arguments,
    check_json_file,
    find_data_dir,
    find_target,
)
from loadtest.track import TrackRefused, read_built_in_track, read_track, track_of
from loadtest.walk_note import FAR_FOLDER_PREFIX, WalkNote, find_note, list_journals, remove_walk
from loadtest.walk_plan import PlannedStep, WalkPlan, plan_walk
from protocol.client.journal import FileJournal, JournalBroken, JournalBusy, JournalDamaged, JournalForeign, JournalFull
from protocol.client.player_client import ClientStopped, PlayerClient, PlayerListener, QueryRefused
from protocol.closes import CloseCode
from protocol.experience_file import ExperienceRefused

WALKING_M_PER_S = 1.4
# Thirty times as fast as a pedestrian: Wylding Woods takes a minute instead of half an hour.
PACE = 30.0
PAUSE_S_MIN, PAUSE_S_MAX = 0.15, 10.0

FIRST_WELCOME_WAIT_S = 30.0
TOKEN_REFUSALS_MAX = 3
# Redis and Postgres may come back on their files, and the client's own back-off grows to half a minute.
STALL_S = 120.0
# After so long without news a line says what is waited for.
QUIET_S = 3.0
RTT_WAIT_S = 1.0
LEAVE_WAIT_S = 15.0
READ_BACK_WAIT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("track", nargs="?", type=Path, metavar="TRACK.gpx", help="GPX track (default: Wylding Woods)")
    add_target_arguments(parser)
    parser.add_argument("--experience", default=WYLDING_WOODS.experience_id, metavar="ID", help="what is played")
    parser.add_argument("--player", metavar="UUID", help="who walks (default: a new player for each walk)")
    parser.add_argument("--device", metavar="ID", help="device id of a new journal (default: a new one)")
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="the device's journal (default: <data-dir>/walk/<player>.journal)"
    )
    parser.add_argument("--fast", action="store_true", help="no walking pauses: the next step once one is accepted")
    parser.add_argument("--pace", type=float, default=PACE, metavar="N", help=f"times walking speed (default {PACE:g})")
    parser.add_argument("--random-seed", type=int, metavar="N", help="makes the details of the steps repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what happened there as JSON, too")
    parser.add_argument(
        "--stall-s", type=float, default=STALL_S, metavar="S", help=f"give up after so long without news ({STALL_S:g})"
    )


def run(args: argparse.Namespace) -> int:
    """Exit codes: 0 ok, 1 the verdict is bad, 2 usage, 3 something needed is missing, 130 interrupted."""
    try:
        if not 0.01 <= args.pace <= 100_000 or not 1 <= args.stall_s <= 86_400:
            raise TargetRefused("--pace must be between 0.01 and 100000, --stall-s between 1 and 86400")
        check_json_file(args.json)
        target = find_target(args)
        return asyncio.run(_run(args, target))
    except (TargetRefused, TrackRefused, JournalForeign, JournalDamaged) as refused:
        print(f"wayhold walk: {refused}", file=sys.stderr)
        return EXIT_USAGE
    except JournalBusy as busy:
        print(f"wayhold walk: another walk is using {busy.path}; wait for it, or say --journal FILE", file=sys.stderr)
        return EXIT_USAGE
    except TargetMissing as missing:
        print(f"wayhold walk: {missing}", file=sys.stderr)
        return EXIT_DEPENDENCY
    except JournalBroken as broken:
        print(f"wayhold walk: {broken}", file=sys.stderr)
        return EXIT_DEPENDENCY
    except OSError as fault:
        print(f"wayhold walk: {fault.strerror or fault}: {fault.filename or 'the journal'}", file=sys.stderr)
        return EXIT_DEPENDENCY
    except KeyboardInterrupt:
        print("wayhold walk: stopped; the same command goes on where it was", file=sys.stderr)
        return EXIT_INTERRUPTED


async def _run(args: argparse.Namespace, target: Target) -> int:
    choice = await choose_walk(args, target)
    try:
        return await Walk(args, target, choice).run()
    finally:
        await choice.journal.close()


@dataclass(slots=True)
class WalkChoice:
    """Who walks what: a new walk, or one that was not finished. The journal is open."""

    plan: WalkPlan
    note: WalkNote
    journal_file: Path
    journal: FileJournal
    is_new: bool
    is_kept: bool  # the journal is the caller's and stays

    @property
    def steps_made(self) -> int:
        return max(0, min(self.note.steps, self.journal.made - self.note.first_seq + 1))


async def choose_walk(args: argparse.Namespace, target: Target) -> WalkChoice:
    """
    Go on with the walk that was not finished, else begin one.

    Raises:
        TargetRefused, TrackRefused: flags or track that cannot be used.
        JournalBusy, JournalForeign, JournalDamaged, OSError: the journal cannot be used.
    """
    try:
        experience = find_experience(args.experience) or make_unknown_experience(args.experience)
    except ExperienceRefused as refused:
        raise TargetRefused(str(refused)) from refused
    if args.track is not None:
        track = read_track(args.track)
    elif experience.waypoints and experience.experience_id != WYLDING_WOODS.experience_id:
        track = track_of(experience)
    else:
        track = read_built_in_track()
    server = str(target.ready_file.parent.resolve()) if target.ready_file is not None else target.url
    player = _find_player(args, target)

    def make_plan(seed: int) -> WalkPlan:
        try:
            return plan_walk(track, experience, seed)
        except ValueError as refused:
            raise TargetRefused(str(refused)) from refused

    for file in _list_candidates(args, target, player):
        note = find_note(file)
        if note is None or note.is_done or note.experience != args.experience or note.server != server:
            continue
        if (player is not None and note.player != player) or (args.device is not None and note.device != args.device):
            continue
        plan = make_plan(note.random_seed)
        if plan.digest != note.digest:
            continue
        try:
            journal = FileJournal(file, server=server, player=note.player, experience=args.experience)
        except (JournalBusy, JournalForeign, JournalDamaged):
            if args.journal is not None:
                raise
            continue  # somebody else is walking with it: a new walk then
        if journal.device == note.device:
            return WalkChoice(plan, note, file, journal, is_new=False, is_kept=args.journal is not None)
        await journal.close()

    if player is None and args.journal is not None:
        before = find_note(args.journal)  # a journal of one's own is somebody's: who has finished a walk walks again
        player = before.player if before is not None else None
    player = player or str(uuid.uuid4())
    seed = args.random_seed if args.random_seed is not None else random.SystemRandom().randrange(2**32)
    plan = make_plan(seed)
    file = args.journal if args.journal is not None else _default_folder(args, target) / f"{player}.journal"
    journal = FileJournal(file, server=server, player=player, experience=args.experience, device=args.device)
    note = WalkNote(
        player=player,
        device=journal.device,
        experience=args.experience,
        server=server,
        digest=plan.digest,
        random_seed=seed,
        first_seq=journal.made + 1,
        steps=len(plan.steps),
    )
    note.write(file)
    return WalkChoice(plan, note, file, journal, is_new=True, is_kept=args.journal is not None)


def _find_player(args: argparse.Namespace, target: Target) -> str | None:
    """The player that was asked for, by flag or by token."""
    player: str | None = None
    if args.player is not None:
        try:
            player = str(uuid.UUID(args.player))
        except ValueError as fault:
            raise TargetRefused(f"--player must be a UUID, not {args.player!r}") from fault
    if target.token is not None:
        try:
            claims = jwt.decode(target.token, options={"verify_signature": False})
            named = str(uuid.UUID(str(claims.get("sub"))))
        except (jwt.InvalidTokenError, ValueError) as fault:
            raise TargetRefused("--token is not a player's token") from fault
        if player is not None and player != named:
            raise TargetRefused(f"--token is of the player {named}, not of {player}")
        player = named
    return player


def _list_candidates(args: argparse.Namespace, target: Target, player: str | None) -> list[Path]:
    if args.journal is not None:
        return [args.journal]
    folder = find_data_dir(args) / "walk"
    if player is not None:
        return [folder / f"{player}.journal"]
    return list(list_journals(folder)) if folder.is_dir() else []


def _default_folder(args: argparse.Namespace, target: Target) -> Path:
    """Journals live in the data folder; a walk on a far gateway has none and makes no folder in its place."""
    data_dir = find_data_dir(args)
    if not data_dir.is_dir():
        return Path(tempfile.mkdtemp(prefix=FAR_FOLDER_PREFIX))
    folder = data_dir / "walk"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@dataclass(slots=True)
class WalkedStep:
    """A step of this process, from made to saved."""

    number: int
    planned: PlannedStep
    made_ms: float
    accepted_ms: float | None = None
    saved_ms: float | None = None
    rtt_ms: float | None = None
    void_code: int | None = None


@dataclass(slots=True)
class Walk(PlayerListener):
    """One walk, from the first step to the verdict."""

    args: argparse.Namespace
    target: Target
    choice: WalkChoice
    history: PlayerHistory = field(init=False)
    client: PlayerClient = field(init=False)
    walked: dict[int, WalkedStep] = field(default_factory=dict)  # by seq of the current device
    finished: list[WalkedStep] = field(default_factory=list)
    shown: deque[WalkedStep] = field(default_factory=deque)  # whose line is still to come, in order
    steps_made: int = 0
    resumes: int = 0
    rtt_ms: float | None = None
    token_refusals: int = 0
    news_ms: float = 0.0
    quiet_noted_ms: float = 0.0

    async def run(self) -> int:
        note, journal = self.choice.note, self.choice.journal
        self.history = PlayerHistory(note.player, note.experience, is_whole=note.first_seq == 1 and self._is_fresh())
        self.client = PlayerClient(
            self.target.url,
            lambda: self.target.make_token(note.player),
            note.experience,
            journal=journal,
            listener=self,
        )
        self.steps_made = self.choice.steps_made
        self._introduce()
        self.news_ms = now_ms()
        problem: str | None = None
        await self.client.start()
        watcher = asyncio.create_task(self._watch())
        try:
            await self._wait_first_welcome()
            self._remember_earlier_steps()
            await self._walk()
            await self._wait_saved()
            await self.client.leave(LEAVE_WAIT_S)
        except ClientStopped as stopped:
            problem = f"the gateway sent the player away: {_name_close(stopped.code)}"
        except _Stalled as stalled:
            problem = str(stalled)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            await self.client.stop()
        return await self._judge(problem)

    def _is_fresh(self) -> bool:
        """A walk that begins with a player of its own knows everything that Postgres may hold of it."""
        return self.args.player is None and self.target.token is None and self.args.journal is None

    def _introduce(self) -> None:
        choice, note = self.choice, self.choice.note
        print(
            f"{choice.plan.title}: {note.steps} steps, {choice.plan.distance_m:.0f} m, player {note.player}, "
            f"device {note.device}",
            flush=True,
        )
        if not choice.is_new:
            print(f"going on after step {choice.steps_made} of a walk that was not finished", flush=True)

    async def _wait_first_welcome(self) -> None:
        deadline_ms = now_ms() + FIRST_WELCOME_WAIT_S * 1000
        while now_ms() < deadline_ms:
            try:
                await self.client.wait_connected(0.5)
                return
            except TimeoutError:
                if self.token_refusals >= TOKEN_REFUSALS_MAX:
                    raise TargetRefused("the gateway refuses the token: was it made with its secret?") from None
        raise TargetMissing(
            f"no gateway lets this player in at {self.target.url} (waited {FIRST_WELCOME_WAIT_S:.0f} s); "
            "is it running? see `wayhold status`"
        )

    def _remember_earlier_steps(self) -> None:
        """What an earlier process of this walk made: it is in the journal or saved already."""
        note, journal = self.choice.note, self.choice.journal
        for number in range(self.steps_made):
            seq = note.first_seq + number
            if seq < 1:
                self.history.is_whole = False  # made under a device id that is no more
                continue
            planned = self.choice.plan.steps[number]
            step = Step(journal.device, seq, planned.event, list(planned.effects) or None, made_ms=0.0)
            self.history.add_made(step)
            self.walked[seq] = WalkedStep(number + 1, planned, made_ms=0.0)
        self.history.note_accepted(journal.device, self.client.accepted, now_ms())
        self.history.note_saved(journal.device, self.client.saved, now_ms())
        for seq in [seq for seq in self.walked if seq <= self.client.saved]:
            self._finish(seq)
        self.shown.extend(self.walked.values())

    async def _walk(self) -> None:
        while self.steps_made < self.choice.note.steps:
            planned = self.choice.plan.steps[self.steps_made]
            if not self.args.fast:
                pause_s = planned.walked_m / WALKING_M_PER_S / self.args.pace
                await asyncio.sleep(min(PAUSE_S_MAX, max(PAUSE_S_MIN, pause_s)))
            seq = await self._make(planned)
            await self._look_around(seq, planned)

    async def _make(self, planned: PlannedStep) -> int:
        event = {**planned.event, "at": int(now_ms())}
        while True:
            try:
                return await self.client.update(event, list(planned.effects) or None)
            except JournalFull:
                await self._wait_news("the journal is full")

    async def _look_around(self, seq: int, planned: PlannedStep) -> None:
        """Wait for the answer (a walker does not wait for long) and measure the way there and back."""
        waited_s = self.args.stall_s if self.args.fast else RTT_WAIT_S
        try:
            await self.client.wait_accepted(seq, waited_s)
        except TimeoutError:
            if self.args.fast:
                raise _Stalled(f"no answer to a step for {waited_s:.0f} s") from None
            return
        before_s = time.perf_counter()
        try:
            await self.client.query("visited", {"waypoint": planned.place}, timeout_s=RTT_WAIT_S)
        except (TimeoutError, QueryRefused, ClientStopped):
            return
        self.rtt_ms = (time.perf_counter() - before_s) * 1000
        step = self.walked.get(seq)
        if step is not None:
            step.rtt_ms = self.rtt_ms

    async def _wait_saved(self) -> None:
        while self.client.saved < self.client.made:
            try:
                await self.client.wait_saved(self.client.made, QUIET_S)
            except TimeoutError:
                await self._wait_news("not everything is saved")

    async def _wait_news(self, what: str) -> None:
        """Wait a moment for the client to get on. Raises _Stalled when nothing has happened for too long."""
        if now_ms() - self.news_ms > self.args.stall_s * 1000:
            raise _Stalled(f"{what}, and there was no news for {self.args.stall_s:.0f} s")
        await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        """Say what is waited for when nothing happens."""
        while True:
            await asyncio.sleep(0.5)
            now = now_ms()
            waiting = self.client.made - self.client.saved
            if now - max(self.news_ms, self.quiet_noted_ms) < QUIET_S * 1000 or not waiting:
                continue
            self.quiet_noted_ms = now
            accepted = max(0, self.client.accepted - self.client.saved)
            where = "connected" if self.client.connected else "not connected, trying again"
            print(
                f"    … {where}: {waiting - accepted} to be accepted, {accepted} accepted and to be saved", flush=True
            )

    # What the client tells.

    def on_made(self, device: str, seq: int, frame: dict[str, Any]) -> None:
        made = now_ms()
        self.history.add_made(Step(device, seq, frame.get("event"), frame.get("effects"), made, made))
        step = WalkedStep(self.steps_made + 1, self.choice.plan.steps[self.steps_made], made)
        self.steps_made += 1
        self.walked[seq] = step
        self.shown.append(step)

    def on_accepted(self, device: str, seq: int, at_ms: float) -> None:
        now = self.news_ms = now_ms()
        self.history.note_accepted(device, seq, now)
        for number, step in self.walked.items():
            if number <= seq and step.accepted_ms is None:
                step.accepted_ms = now

    def on_saved(self, device: str, seq: int) -> None:
        self.news_ms = now_ms()
        self.history.note_saved(device, seq, self.news_ms)
        for number in [number for number in self.walked if number <= seq]:
            self._finish(number)
        self._show()

    def on_void(self, device: str, seq: int, code: int, message: str) -> None:
        self.history.note_void(device, seq, code)
        if seq in self.walked:
            self.walked[seq].void_code = code
        print(f"    step with seq {seq} was refused: {code} {message}", flush=True)

    def on_resume(self, reason: str) -> None:
        self.news_ms = now_ms()
        self.resumes += reason == "resumed"
        said = "the session was resumed" if reason == "resumed" else f"a new session ({reason})"
        print(f"    … back: {said}", flush=True)

    def on_resync(self, reason: str) -> None:
        self.news_ms = now_ms()
        print(f"    … resync ({reason}): what the server does not have is sent again", flush=True)

    def on_stream_reset(self, old_device: str, new_device: str, renumbered: dict[int, int]) -> None:
        self.history.note_stream_reset(old_device, new_device, renumbered)
        for seq in [seq for seq in self.walked if seq not in renumbered]:
            self._finish(seq)  # the server has it
        self.walked = {renumbered[seq]: step for seq, step in self.walked.items()}
        note = self.choice.note
        note.device, note.first_seq = new_device, len(renumbered) - self.steps_made + 1
        note.write(self.choice.journal_file)
        print(f"    … the server lost numbers of this device: going on as {new_device}", flush=True)

    def on_error(self, code: int, name: str, message: str) -> None:
        print(f"    … error {code} {name}: {message}", flush=True)

    def on_close(self, code: int | None) -> None:
        if code is not None and 4100 <= code < 4200:
            self.token_refusals += 1
            print(f"    … refused: {_name_close(code)}", flush=True)
        elif not self.client.stopped:
            print(f"    … connection lost{f' ({_name_close(code)})' if code else ''}, coming back", flush=True)

    def _finish(self, seq: int) -> None:
        step = self.walked.pop(seq)
        step.saved_ms = now_ms()
        step.accepted_ms = step.accepted_ms or step.saved_ms
        self.finished.append(step)

    def _show(self) -> None:
        """One line for each step that is saved, in the order of the walk."""
        while self.shown and self.shown[0].saved_ms is not None:
            step = self.shown.popleft()
            what = step.planned.event["type"]
            print(
                f"step {step.number:>3}/{self.choice.note.steps}  {step.planned.place:<38} {what:<20} "
                f"accepted {_duration(step.accepted_ms, step.made_ms):>9}  "
                f"saved {_duration(step.saved_ms, step.made_ms):>9}  "
                f"RTT {f'{step.rtt_ms:.1f} ms' if step.rtt_ms is not None else '–':>8}",
                flush=True,
            )

    # The verdict.

    async def _judge(self, problem: str | None) -> int:
        choice, note = self.choice, self.choice.note
        made = self.steps_made
        accepted = max(0, min(made, self.client.accepted - note.first_seq + 1))
        saved = max(0, min(made, self.client.saved - note.first_seq + 1))
        if problem is not None:
            print(f"  {problem}", flush=True)
        report = await self._read_back()
        voids = sum(step.void_code is not None for step in self.history.steps)
        is_ok = problem is None and saved == note.steps and not voids and (report is None or report.is_ok)
        if is_ok and not choice.is_kept:
            await choice.journal.close()
            remove_walk(choice.journal_file)
        elif is_ok:
            note.is_done = True
            note.write(choice.journal_file)
        if self.args.json is not None:
            self.args.json.write_text(json.dumps(self._as_dict(is_ok, accepted, saved, report), indent=2) + "\n")
        verdict = "ok" if is_ok else "FAILED"
        print(
            f"walk: {verdict} steps={note.steps} accepted={accepted} saved={saved} resumes={self.resumes}", flush=True
        )
        return EXIT_OK if is_ok else EXIT_BAD

    async def _read_back(self) -> AuditReport | None:
        """What Postgres holds of this walk, compared with what was sent; None where no database is known."""
        if self.target.database_url is None:
            print("  Postgres was not looked into: say --database-url", flush=True)
            return None
        self.history.offered = sum(1 for _ in self.history.steps)
        deadline_ms = now_ms() + READ_BACK_WAIT_S * 1000
        while True:
            try:
                report = await audit([self.history], self.target.database_url)
            except (OSError, TimeoutError, asyncpg.PostgresError) as fault:
                if now_ms() > deadline_ms:
                    print(f"  Postgres could not be read: {fault}", flush=True)
                    return None
                await asyncio.sleep(0.5)
                continue
            break
        for line in report.lines()[:-1]:
            print(line, flush=True)
        print(
            f"  Postgres holds {report.saved} of {report.accepted} accepted steps: lost {report.lost}, "
            f"duplicated {report.duplicated}, reordered {report.reordered}, wrong {report.state_mismatches}",
            flush=True,
        )
        return report

    def _as_dict(self, is_ok: bool, accepted: int, saved: int, report: AuditReport | None) -> dict[str, Any]:
        note = self.choice.note
        steps = sorted([*self.finished, *self.walked.values()], key=lambda step: step.number)
        return {
            "ok": is_ok,
            "steps": note.steps,
            "accepted": accepted,
            "saved": saved,
            "resumes": self.resumes,
            "player": note.player,
            "device": self.choice.journal.device,
            "experience": note.experience,
            "random_seed": note.random_seed,
            "distance_m": round(self.choice.plan.distance_m, 1),
            "audit": report.as_dict() if report is not None else None,
            "walked": [
                {
                    "step": step.number,
                    "place": step.planned.place,
                    "event": step.planned.event["type"],
                    "accepted_ms": _since(step.accepted_ms, step.made_ms),
                    "saved_ms": _since(step.saved_ms, step.made_ms),
                    "rtt_ms": round(step.rtt_ms, 3) if step.rtt_ms is not None else None,
                }
                for step in steps
            ],
        }


class _Stalled(Exception):
    """Nothing went on for too long."""


def _since(at_ms: float | None, made_ms: float) -> float | None:
    """How long after it was made; None for a step that an earlier process of this walk made."""
    return round(at_ms - made_ms, 3) if at_ms is not None and made_ms else None


def _duration(at_ms: float | None, made_ms: float) -> str:
    took_ms = _since(at_ms, made_ms)
    if took_ms is None:
        return "before"
    return f"{took_ms:.1f} ms" if took_ms < 1000 else f"{took_ms / 1000:.2f} s"


def _name_close(code: int | None) -> str:
    if code is None:
        return "no close code"
    return f"{code} {CloseCode(code).name}" if code in CloseCode.__members__.values() else str(code)
