"""
An action of a command that has always worked on the stores themselves: through the API of a `dev` that runs, so that it
stands in the audit log, and waited for until it has ended.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway.app.errors import UnfitDependency
from gateway.app.operate.api import Api, make_key

POLL_S = 0.5


def act_to_the_end(
    api: Api, action: str, target: Mapping[str, Any], payload: Mapping[str, Any], reason: str, deadline_s: float
) -> dict[str, Any]:
    """
    The answer once it is `done` or `refused`.

    Raises:
        Away: there is no API (any more); it may have been done.
        UnfitDependency: not within the deadline; it goes on.
    """
    due = time.monotonic() + deadline_s
    body = {"action": action, "target": dict(target), "payload": dict(payload), "reason": reason}
    answer = api.post("/api/v1/actions", body, make_key())
    while answer["state"] == "requested":
        if time.monotonic() > due:
            raise UnfitDependency(f"{action} has not ended in {deadline_s:.0f} s", "it goes on; see wayhold audit")
        time.sleep(POLL_S)
        answer = api.get(f"/api/v1/actions/{answer['id']}")
    return answer
