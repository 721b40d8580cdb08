"""
When a dead child starts again, and when it is no use any more. Pure: times come in, a decision goes out.
"""

from __future__ import annotations

from collections import deque

RESTART_DELAY_S = 0.2
RESTART_DELAY_MAX_S = 5.0
DEATHS_MAX = 5
DEATHS_WINDOW_S = 60.0
LOG_TAIL_LINES = 20


class RestartPolicy:
    """
    One child's history of deaths.

    The delay doubles from `RESTART_DELAY_S` with each death and starts again once the child has lived through a whole
    window; `DEATHS_MAX` deaths within the window are the end.
    """

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._in_a_row = 0

    def died(self, at_s: float, lived_s: float) -> float | None:
        """Seconds until it starts again, or None: give up."""
        if lived_s >= DEATHS_WINDOW_S:
            self._in_a_row = 0
        self._in_a_row += 1
        self._deaths.append(at_s)
        if len(self._deaths) == DEATHS_MAX and at_s - self._deaths[0] <= DEATHS_WINDOW_S:
            return None
        # The exponent is capped too: a child that dies every hour for a year must not overflow a float.
        return float(min(RESTART_DELAY_S * 2 ** min(self._in_a_row - 1, 10), RESTART_DELAY_MAX_S))
