"""
The flusher of the product with one thing added: it kills itself (SIGKILL) right after a named step when it is told to.

`python -m tests.faults.run_dying_flusher --orders FOLDER -- ARGUMENTS OF run_flusher`. An order is a file in the
folder named as the step; whoever removes it first is the one that dies (or stands still, when the file says "stop").
The product has no such switch: this program hands the flusher the callback that its tests use.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path

import gateway.app.run_flusher as product
from persistence.flusher.flusher import STEPS, Flusher


def die_at(orders: Path, step: str) -> None:
    order = orders / step
    if not order.exists() or not _has_work(step):
        return
    try:
        wanted = order.read_bytes()
        order.unlink()
    except FileNotFoundError:  # the other flusher was quicker, and dies of it
        return
    os.kill(os.getpid(), signal.SIGSTOP if wanted == b"stop" else signal.SIGKILL)


def _has_work(step: str) -> bool:
    """Dying with empty hands proves nothing: after a claim, look whether anything was claimed."""
    if step != STEPS[0]:
        return True
    frame = sys._getframe(2)  # die_at ← the flusher, which has the claims in hand
    return bool(frame.f_locals.get("claimed", True))


def main() -> int:
    orders = Path(sys.argv[sys.argv.index("--orders") + 1])
    sys.argv = [sys.argv[0], *sys.argv[sys.argv.index("--") + 1 :]]
    product.Flusher = functools.partial(Flusher, at_step=functools.partial(die_at, orders))  # type: ignore[misc, assignment]
    return product.main()


if __name__ == "__main__":
    sys.exit(main())
