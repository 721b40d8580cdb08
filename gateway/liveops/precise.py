"""Who looked at exact places: a line of the audit log, once for each run of looks at the same thing."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from persistence.errors import StoreUnavailable
from persistence.operators import Operator

if TYPE_CHECKING:
    from gateway.liveops.services import Services

SAME_LOOK_S = 600.0
REMEMBERED_MAX = 5_000


class PreciseLooks:
    """Which looks were noted lately."""

    def __init__(self) -> None:
        self.noted: OrderedDict[tuple[str, str, str], float] = OrderedDict()


async def look_precisely(
    services: Services, operator: Operator, what: str, *, player: str | None = None, address: str = ""
) -> bool:
    """
    Whether this operator sees exact places now; if so, it has been written down. While it cannot be written down they
    see what everybody sees.
    """
    if not operator.is_precise:
        return False
    noted, key, now = services.precise_looks.noted, (operator.name, what, player or ""), services.clock()
    if key in noted and now - noted[key] < SAME_LOOK_S:
        return True
    try:
        await services.operators.note(
            operator.name,
            "precise_location",
            role=operator.role.label,
            user_id=player,
            address=address,
            details={"looked_at": what},
        )
    except StoreUnavailable:
        return False
    noted[key] = now
    noted.move_to_end(key)
    while len(noted) > REMEMBERED_MAX:
        noted.popitem(last=False)
    return True
