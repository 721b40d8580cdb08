"""
The write path as a Hypothesis state machine: the rules and invariants of `test_write_path_schedules`, chosen and
shrunk by Hypothesis, on the real scripts and the real SQL. A failure is printed as the shortest run of rules that
still fails.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from persistence.cold.store import ColdStore
from persistence.hot.store import HotStore
from tests.property.test_write_path_schedules import World
from tests.servers import Servers
from tests.stores.conftest import Stores

devices = st.integers(0, 1)


class WritePath(RuleBasedStateMachine):
    """Two devices, an operator, one progress, every step of a hydrate and of a flush on its own."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    stores: ClassVar[Stores]
    postgres: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(random.Random(0), self.stores, self.postgres)

    def do(self, step: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(step)

    @rule(device=devices)
    def make(self, device: int) -> None:
        self.do(self.world.make(self.world.devices[device]))

    @rule(device=devices)
    def hello(self, device: int) -> None:
        self.do(self.world.hello(self.world.devices[device]))

    @rule(device=devices)
    def update(self, device: int) -> None:
        self.do(self.world.update(self.world.devices[device]))

    @rule(device=devices)
    def ping(self, device: int) -> None:
        self.do(self.world.ping(self.world.devices[device]))

    @rule()
    def request(self) -> None:
        self.do(self.world.request())

    @precondition(lambda self: self.world.actions)
    @rule()
    def issue(self) -> None:
        self.do(self.world.issue())

    @precondition(lambda self: self.world.actions)
    @rule()
    def sweep(self) -> None:
        self.do(self.world.sweep())

    @rule()
    def hydrate(self) -> None:
        self.do(self.world.hydrate())

    @precondition(lambda self: self.world.loads)
    @rule()
    def install(self) -> None:
        self.do(self.world.install())

    @rule()
    def snapshot(self) -> None:
        self.do(self.world.snapshot())

    @precondition(lambda self: self.world.snapshots)
    @rule()
    def write(self) -> None:
        self.do(self.world.write())

    @precondition(lambda self: self.world.settlements)
    @rule()
    def settle(self) -> None:
        self.do(self.world.settle())

    @rule()
    def keep_hot(self) -> None:
        self.do(self.world.keep_hot())

    @rule()
    def lose_hot(self) -> None:
        self.do(self.world.lose_hot())

    @precondition(lambda self: self.world.copies)
    @rule()
    def bring_back_an_old_hot(self) -> None:
        self.do(self.world.old_hot())

    @rule(device=devices)
    def drop_connection(self, device: int) -> None:
        self.world.devices[device].is_connected = False

    @invariant()
    def told_saved_is_saved(self) -> None:
        self.do(self.world.check())

    def teardown(self) -> None:
        self.do(self.world.rest())
        if self.world.made:
            self.do(self.world.audit())


@pytest.fixture
def machine(servers: Servers, redis_url: str, database_url: str) -> Iterator[type[WritePath]]:
    loop = asyncio.new_event_loop()
    hot = loop.run_until_complete(HotStore.open(redis_url))
    cold = loop.run_until_complete(ColdStore.open(database_url, pool_max=2))
    WritePath.loop = loop
    WritePath.stores = Stores(hot, cold, database_url, redis_url)
    WritePath.postgres = loop.run_until_complete(asyncpg.connect(database_url))
    yield WritePath
    loop.run_until_complete(WritePath.postgres.close())
    loop.run_until_complete(hot.close())
    loop.run_until_complete(cold.close())
    loop.close()


@pytest.mark.timeout(300)
def test_no_run_of_rules_loses_or_doubles_a_step(machine: type[WritePath]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
