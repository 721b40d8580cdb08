"""
Run a command as the terminal's foreground job, so that Ctrl-C reaches it and not `make`, and end as it ended.

    python tools/run_in_foreground.py COMMAND ARG...

`make` calls a target failed when it is interrupted itself, however cleanly the program under it ended. Without a
terminal (CI, a script) the command simply takes this process's place.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys


def main() -> int:
    command = sys.argv[1:]
    terminal = 0
    if not _is_foreground(terminal):
        os.execvp(command[0], command)
    # Giving the terminal away and taking it back is done from the background, which would stop us.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = subprocess.Popen(command, preexec_fn=lambda: _become_foreground(terminal), restore_signals=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: _forward(child.pid, received))
    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        _give_terminal(terminal, os.getpgrp())
        if not os.WIFSTOPPED(status):
            break
        # Ctrl-Z: the whole job stops, `make` too; `fg` brings all of it back.
        os.killpg(os.getpgrp(), signal.SIGSTOP)
        _give_terminal(terminal, child.pid)
        os.killpg(child.pid, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _is_foreground(terminal: int) -> bool:
    try:
        return os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False


def _become_foreground(terminal: int) -> None:
    os.setpgid(0, 0)
    _give_terminal(terminal, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def _give_terminal(terminal: int, group: int) -> None:
    with contextlib.suppress(OSError):
        os.tcsetpgrp(terminal, group)


def _forward(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
