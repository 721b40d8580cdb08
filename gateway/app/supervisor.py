"""
Owns the processes of one Wayhold: starts them in order, starts dead ones again, stops them in the reverse order.

Promise: whatever happens to one child, the others go on; a child that cannot live is given up with its last words, and
then everything is stopped cleanly. A first signal stops cleanly, a second one quickly. When this process is killed its
children notice by themselves (`children.py`, and the kernel's parent-death signal for the servers).

One thread, no event loop: the main thread is the one that starts processes (the parent-death signal is bound to it) and
the one that gets signals, and all there is to do is to look at a handful of children when something woke us up.

Not here: which children there are (`dev.py`, `serve.py`) and when one is given up (`restart.py`).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

from gateway.app.errors import ChildGaveUp, CommandError, ExitCode, UnfitDependency
from gateway.app.log_tail import LogTail
from gateway.app.restart import DEATHS_MAX, DEATHS_WINDOW_S, LOG_TAIL_LINES, RestartPolicy
from persistence.embedded.child import Child, ChildFailed
from persistence.embedded.errors import EmbeddedError
from persistence.embedded.log_file import cap_log, list_last_lines

T = TypeVar("T")

LOOK_INTERVAL_S = 0.05  # while something starts or stops
IDLE_INTERVAL_S = 0.5  # otherwise; a death wakes us up at once (SIGCHLD)
LOG_CAP_INTERVAL_S = 5.0
HURRY_STOP_S = 2.0  # what each group still gets after a second signal
KILL_WAIT_S = 5.0
DISPENSABLE_DELAY_S = 30.0  # between starts of a child that dies all the time and that others can do without

# These codes say "not in this environment": no restart helps while everything is being started.
HOPELESS_CODES = frozenset({int(ExitCode.USAGE), int(ExitCode.UNFIT), int(ExitCode.BUSY)})


class StopRequested(Exception):
    """A signal came while something was being waited for."""


class State(Enum):
    NEW = auto()
    STARTING = auto()
    READY = auto()
    WAITING = auto()  # dead, starts again at `restart_at`
    STOPPED = auto()


@dataclass
class Supervised:
    """A child with the supervisor's view of it. Children of a higher `stage` start later and stop earlier."""

    child: Child
    stage: int
    stop_deadline_s: float
    start_deadline_s: float
    state: State = State.NEW
    pid: int | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    is_restart: bool = False
    is_vital: bool = True
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    tail: LogTail | None = None


class Supervisor:
    """
    Use it as a context: inside, signals are ours; at the end of it every child has ended.

        with Supervisor(log=…, on_change=…) as supervisor:
            supervisor.add(child, stage=0, …)
            supervisor.start_all()
            supervisor.watch()
    """

    def __init__(
        self,
        *,
        log: Any,
        on_change: Callable[[], None] = lambda: None,
        on_death: Callable[[int], None] = lambda pid: None,
        show_line: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        `on_change` is called when a child became ready again, `on_death` with the process id of each that died,
        `show_line` with each warning that a child wrote into its log file.
        """
        self._log = log
        self._on_change = on_change
        self._on_death = on_death
        self._show_line = show_line
        self._clock = clock
        self._supervised: list[Supervised] = []
        self._signals = 0
        self.first_signal: int | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._old_handlers: dict[signal.Signals, Any] = {}
        self._old_wakeup_fd = -1
        self._logs_capped_at = 0.0

    def __enter__(self) -> Supervisor:
        self._old_wakeup_fd = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._old_handlers[number] = signal.signal(number, self._on_signal)
        # Without a handler a child's death would not write to the wake-up pipe.
        self._old_handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop_all()
        finally:
            signal.set_wakeup_fd(self._old_wakeup_fd)
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
            os.close(self._wake_read)
            os.close(self._wake_write)

    @property
    def is_stop_requested(self) -> bool:
        return self._signals > 0

    def add(
        self,
        child: Child,
        *,
        stage: int,
        stop_deadline_s: float,
        start_deadline_s: float = 30.0,
        is_log_shown: bool = False,
        is_vital: bool = True,
    ) -> None:
        """
        `is_log_shown`: its log file is written by `telemetry.logs`, and warnings in it shall be shown. Without one that
        is not `is_vital` everything else goes on: it is started again for ever, less and less often.
        """
        supervised = Supervised(child, stage, stop_deadline_s, start_deadline_s, is_vital=is_vital)
        if is_log_shown and self._show_line is not None and child.log_path is not None:
            supervised.tail = LogTail(child.log_path)
        self._supervised.append(supervised)

    def list_pids(self) -> dict[str, int]:
        """The living children by name."""
        return {each.child.name: each.pid for each in self._supervised if each.pid is not None}

    def list_starting(self) -> tuple[str, ...]:
        """Those of them that are not ready yet."""
        return tuple(
            each.child.name for each in self._supervised if each.pid is not None and each.state is State.STARTING
        )

    def start_all(self) -> None:
        """
        Start every child that was added and not started yet; returns when all are ready.

        A child that dies meanwhile is started again, unless it says that this is of no use. One that is not vital and
        has died is not waited for.

        Raises:
            StopRequested: a signal came.
            CommandError, EmbeddedError: a child cannot start here.
            ChildGaveUp: a child died too often.
        """
        new = [each for each in self._supervised if each.state is State.NEW]
        for each in new:
            self._spawn(each, is_first=True)
        while any(map(_is_awaited, new)):
            self._look(is_first=True)
            self._raise_if_stopped()
            if any(map(_is_awaited, new)):
                self._wait(LOOK_INTERVAL_S / 5)

    def watch(self) -> None:
        """
        Keep the children alive until a signal comes.

        Raises:
            ChildGaveUp: a child died too often.
        """
        while not self._signals:
            self._look()
            is_busy = any(each.state is not State.READY for each in self._supervised)
            self._wait(LOOK_INTERVAL_S if is_busy else IDLE_INTERVAL_S)

    def run_async(self, work: Coroutine[Any, Any, T], deadline_s: float) -> T:
        """
        Run something asynchronous in between (checks, a migration), with a deadline, until a signal comes.

        Raises:
            StopRequested: a signal came; the work was cancelled.
            TimeoutError: the deadline passed; the work was cancelled.
        """

        async def run() -> T:
            task = asyncio.ensure_future(work)
            deadline = self._clock() + deadline_s
            while True:
                done, _pending = await asyncio.wait({task}, timeout=LOOK_INTERVAL_S)
                if done:
                    return task.result()
                if self._signals or self._clock() > deadline:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                    self._raise_if_stopped()
                    raise TimeoutError(f"not done within {deadline_s:g} s")

        return asyncio.run(run())

    def wait_until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for something outside of us; False when the deadline passed. Raises StopRequested."""
        deadline = self._clock() + deadline_s
        while not condition():
            self._raise_if_stopped()
            if self._clock() > deadline:
                return False
            self._wait(LOOK_INTERVAL_S)
        return True

    def stop_all(self) -> None:
        """Stop every child, highest stage first, each stage under its own deadline; then SIGKILL. Never raises."""
        for stage in sorted({each.stage for each in self._supervised}, reverse=True):
            self._stop_stage([each for each in self._supervised if each.stage == stage])

    def _stop_stage(self, stage: Sequence[Supervised]) -> None:
        for each in stage:
            if each.state in (State.STARTING, State.READY):
                with suppress(Exception):
                    each.child.request_stop()
        signals_seen = self._signals
        began = self._clock()
        allowed_s = max(each.stop_deadline_s for each in stage)
        if self._signals > 1:
            allowed_s = min(allowed_s, HURRY_STOP_S)
        is_killed = False
        while living := [each for each in stage if each.child.pid is not None]:
            now = self._clock()
            if self._signals > max(signals_seen, 1):
                signals_seen = self._signals
                allowed_s = min(allowed_s, now - began + HURRY_STOP_S)
                for each in living:
                    with suppress(Exception):
                        each.child.request_stop()
            if not is_killed and now - began > allowed_s:
                is_killed = True
                for each in living:
                    self._log.warning("killed", child=each.child.name, waited_s=round(now - began, 1))
                    with suppress(Exception):
                        each.child.kill()
            elif is_killed and now - began > allowed_s + KILL_WAIT_S:
                break  # stuck in the kernel; nothing more can be done about it
            self._show_logs()
            self._wait(LOOK_INTERVAL_S / 2)
        for each in stage:
            each.state, each.pid = State.STOPPED, None
        self._show_logs()

    def _look(self, *, is_first: bool = False) -> None:
        """One look at every child: deaths, readiness, restarts that are due."""
        now = self._clock()
        for each in self._supervised:
            if each.state is State.WAITING and now >= each.restart_at:
                self._spawn(each, is_first=False)
            if each.state not in (State.STARTING, State.READY):
                continue
            code = each.child.poll()
            if code is not None:
                self._died(each, _describe_exit(code), code=code, is_first=is_first)
            elif each.state is State.STARTING:
                self._look_at_start(each, is_first=is_first)
        self._show_logs()
        if now - self._logs_capped_at > LOG_CAP_INTERVAL_S:
            self._logs_capped_at = now
            for each in self._supervised:
                if each.child.log_path is not None:
                    with suppress(OSError):
                        cap_log(each.child.log_path)

    def _look_at_start(self, each: Supervised, *, is_first: bool) -> None:
        try:
            is_ready = each.child.check_ready()
        except EmbeddedError as error:
            if is_first and not each.is_restart:
                raise
            self._died(each, str(error), code=None, is_first=is_first)
            return
        each.pid = each.child.pid
        if is_ready:
            each.state = State.READY
            if each.is_restart:
                self._log.warning("started_again", child=each.child.name, pid=each.pid)
            self._on_change()
        elif self._clock() - each.started_at > each.start_deadline_s:
            each.child.kill()
            self._died(each, f"was not ready within {each.start_deadline_s:g} s", code=None, is_first=is_first)

    def _spawn(self, each: Supervised, *, is_first: bool) -> None:
        if each.child.pid is not None:  # it was killed for being late and is still going down
            each.child.kill()
            each.restart_at = self._clock() + LOOK_INTERVAL_S
            return
        each.started_at = self._clock()
        each.state = State.STARTING
        try:
            each.child.spawn()
        except (EmbeddedError, OSError) as error:
            if is_first and isinstance(error, OSError):
                raise UnfitDependency(
                    f"{each.child.name} could not be started: {error}", "check memory and process limits (ulimit -a)"
                ) from None
            if is_first:
                raise
            self._died(each, f"could not be started: {error}", code=None, is_first=False)
            return
        each.pid = each.child.pid

    def _died(self, each: Supervised, how: str, *, code: int | None, is_first: bool) -> None:
        now = self._clock()
        name = each.child.name
        if each.pid is not None:
            self._on_death(each.pid)
        each.pid = None
        if is_first and code in HOPELESS_CODES:
            each.state = State.STOPPED
            raise _HopelessChild(name, how, code, self._list_last_words(each))
        delay_s = each.policy.died(now, now - each.started_at)
        if delay_s is None and not each.is_vital:
            delay_s = DISPENSABLE_DELAY_S
        if delay_s is None:
            each.state = State.STOPPED
            raise ChildGaveUp(
                f"{name} died {DEATHS_MAX} times within {DEATHS_WINDOW_S:g} s, the last time it {how}",
                f"everything is stopped; its last lines follow{_where(each)}",
                self._list_last_words(each),
            )
        each.state = State.WAITING
        each.is_restart = True
        each.restart_at = now + delay_s
        self._log.warning("died", child=name, how=how, again_in_s=delay_s)
        self._on_change()

    def _list_last_words(self, each: Supervised) -> list[str]:
        return list_last_lines(each.child.log_path, LOG_TAIL_LINES) if each.child.log_path is not None else []

    def _show_logs(self) -> None:
        if self._show_line is None:
            return
        for each in self._supervised:
            if each.tail is not None:
                for line in each.tail.list_new_warnings():
                    self._show_line(line)

    def _wait(self, timeout_s: float) -> None:
        ready, _, _ = select.select([self._wake_read], [], [], timeout_s)
        if ready:
            with suppress(BlockingIOError):
                while os.read(self._wake_read, 512):
                    pass

    def _raise_if_stopped(self) -> None:
        if self._signals:
            raise StopRequested

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals += 1
        if self.first_signal is None:
            self.first_signal = number


class _HopelessChild(CommandError):
    """A child said at its first start that it cannot run here; its own line is the best explanation."""

    def __init__(self, name: str, how: str, code: int | None, log_tail: list[str]) -> None:
        last = next((line.strip() for line in reversed(log_tail) if line.strip()), "")
        super().__init__(f"{name} {how}" + (f": {last}" if last else ""))
        self.exit_code = ExitCode(code) if code is not None else ExitCode.UNFIT


def _is_awaited(each: Supervised) -> bool:
    return each.state is not State.READY and (each.is_vital or not each.is_restart)


def _describe_exit(code: int) -> str:
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with exit code {code}"


def _where(each: Supervised) -> str:
    return f" ({each.child.log_path})" if each.child.log_path is not None else ""


__all__ = ["ChildFailed", "State", "StopRequested", "Supervised", "Supervisor"]
