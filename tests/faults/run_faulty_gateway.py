"""
The gateway of the product with one thing added: while it is told to, its handlers raise now and then.

`python -m tests.faults.run_faulty_gateway --orders FOLDER -- ARGUMENTS OF run_gateway`. An order is the file `raise` in
the folder: one of `PLACES` and the share of calls that raise, as JSON. Each exception adds a byte to the file `raised`.
The product has no such switch: this program puts a shell around functions of the product before it starts.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gateway.app.run_gateway as product
from gateway.sessions import connection, dispatch, node

LOOK_EVERY_S = 0.02

PLACES: dict[str, tuple[Any, str]] = {
    "frame": (dispatch, "take_updates"),  # before anything is done with it
    "verdict": (node, "take_verdict"),  # Redis has taken the updates, and their player has not been told
    "hello": (dispatch, "open_connection"),  # after the welcome
    "notice": (node.Node, "_tell_saved"),
    "timer": (connection.Connection, "on_timer"),
}
"""Where a handler can be made to raise: whose attribute, and its name."""


class Provoked(Exception):
    """A bug that nobody has foreseen."""


class Order:
    """What is to be raised now, by the file. It is looked at rarely: handlers are called all the time."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self._looked_at = 0.0
        self._place = ""
        self._share = 0.0

    def obey(self, place: str) -> None:
        now = time.monotonic()
        if now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            try:
                order = json.loads((self._orders / "raise").read_bytes())
            except FileNotFoundError:
                order = {"place": "", "share": 0.0}
            self._place, self._share = order["place"], order["share"]
        if place == self._place and random.random() < self._share:
            raised = os.open(self._orders / "raised", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(raised, b".")
            os.close(raised)
            raise Provoked(place)


def make_faulty(order: Order) -> None:
    for place, (owner, name) in PLACES.items():
        whole = getattr(owner, name)
        setattr(owner, name, _raise_after(order, place, whole) if place == "hello" else _raise(order, place, whole))


def _raise(order: Order, place: str, whole: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(whole)
    def handler(*args: Any, **kwargs: Any) -> Any:
        order.obey(place)
        return whole(*args, **kwargs)

    return handler


def _raise_after(order: Order, place: str, whole: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(whole)
    async def handler(*args: Any, **kwargs: Any) -> None:
        await whole(*args, **kwargs)
        order.obey(place)

    return handler


def main() -> int:
    orders = Path(sys.argv[sys.argv.index("--orders") + 1])
    sys.argv = [sys.argv[0], *sys.argv[sys.argv.index("--") + 1 :]]
    make_faulty(Order(orders))
    return product.main()


if __name__ == "__main__":
    sys.exit(main())
