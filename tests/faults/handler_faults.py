"""
Faults of our own: a handler of a gateway raises what nobody has foreseen, now and then, for a second.

That costs the connection in whose affairs it happened, and nobody else: it is closed with a code that lets its client
come back, and nothing of it is lost or done twice. See run_faulty_gateway.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import ClassVar

from tests.faults.fault import Fault

RAISED_DEADLINE_S = 10.0
RAISED_MIN = 3


class HandlerRaises(Fault):
    rows, hold_s, weight = "F38", 1.0, 3
    place: ClassVar[str]
    share: ClassVar[float]

    async def inject(self) -> None:
        before = self._count()
        order = self.rig.orders / "raise"
        written = order.with_suffix(".new")
        written.write_text(json.dumps({"place": self.place, "share": self.share}))
        written.replace(order)
        if self.place == "hello":
            # Nobody says hello without a reason.
            self.rig.links["players"].cut()
        give_up_at = time.monotonic() + RAISED_DEADLINE_S
        while self._count() < before + RAISED_MIN:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"no handler raised at {self.place} within {RAISED_DEADLINE_S:g} s")
            await asyncio.sleep(0.02)

    async def heal(self) -> None:
        (self.rig.orders / "raise").unlink(missing_ok=True)
        await super().heal()

    def _count(self) -> int:
        raised = self.rig.orders / "raised"
        return raised.stat().st_size if raised.exists() else 0


def handler_raises(place: str, share: float) -> type[HandlerRaises]:
    body = {"name": f"exception in a handler: {place}", "place": place, "share": share}
    return type(f"HandlerRaises{place.title()}", (HandlerRaises,), body)
