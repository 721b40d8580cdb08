"""Fixtures that all tests share: real servers, and clean ground on them for each test that asks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import Servers, run_servers

# What a developer has set for the servers they work with must not reach a test: tests empty what they are given.
for name in list(os.environ):
    if name in ("WAYHOLD_SEED", "WAYHOLD_SCHEDULES") or name.startswith("WAYHOLD_TEST_"):
        continue  # these are for tests
    if name.startswith("WAYHOLD_") or name in ("REDIS_URL", "DATABASE_URL", "PROMETHEUS_MULTIPROC_DIR"):
        del os.environ[name]

# A shell that runs this in the background lets it ignore SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes says more about the machine than about us. A failure prints how to run it again.
settings.register_profile("wayhold", deadline=None, print_blob=True)
settings.register_profile("fast", settings.get_profile("wayhold"), max_examples=25)
settings.load_profile("wayhold")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """One Valkey and one Postgres for the whole run. A test that kills one starts it again before it ends."""
    with run_servers() as running:
        yield running


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Redis."""
    servers.flush_redis()
    return servers.redis_url


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A migrated database that this test has for itself."""
    url = servers.create_database()
    yield url
    servers.drop_database(url)
