"""
The table of faults: `KINDS`.

Not here: what they do (process_faults.py, hot_faults.py, link_faults.py, postgres_faults.py, handler_faults.py), when
which of them happens (run.py), and whether anything was lost (the audit).
"""

from __future__ import annotations

from persistence.flusher.flusher import STEPS
from tests.faults.fault import Fault
from tests.faults.handler_faults import handler_raises
from tests.faults.hot_faults import (
    AofTruncated,
    ScriptsFlushed,
    StaleReplicaPromoted,
    ValkeyEmptied,
    ValkeyFlushed,
    ValkeyFull,
    ValkeyRestarted,
)
from tests.faults.link_faults import CommitReplyLost, RedisReplyLost, link
from tests.faults.postgres_faults import (
    BackendsTerminated,
    ConnectionsExhausted,
    Deadlocks,
    PostgresRefuses,
    PostgresSlow,
    RowsLocked,
)
from tests.faults.process_faults import (
    BackendKilled,
    DeviceRaced,
    EverythingKilled,
    FlusherFrozen,
    FlusherKilled,
    GatewayDrained,
    GatewayDrainedTwice,
    GatewayFrozen,
    GatewayKilled,
    NodeKilled,
    PostgresFrozen,
    PostgresKilled,
    ProgramsKilled,
    ValkeyFrozen,
    ValkeyKilled,
    at_step,
)

KINDS: tuple[type[Fault], ...] = (
    GatewayKilled,
    FlusherKilled,
    *(at_step(step) for step in STEPS),
    ValkeyKilled,
    PostgresKilled,
    BackendKilled,
    NodeKilled,
    ProgramsKilled,
    EverythingKilled,
    GatewayFrozen,
    FlusherFrozen,
    ValkeyFrozen,
    PostgresFrozen,
    GatewayDrained,
    GatewayDrainedTwice,
    DeviceRaced,
    ValkeyRestarted,
    ValkeyFlushed,
    ValkeyEmptied,
    AofTruncated,
    StaleReplicaPromoted,
    ScriptsFlushed,
    ValkeyFull,
    link("players", "gateway", "cut", 0.0, "F28"),
    link("players", "gateway", "reset", 0.0, "F28"),
    link("players", "gateway", "hang", 4.0, "F28"),
    link("gateway", "valkey", "cut", 0.0, "F05"),
    link("gateway", "valkey", "reset", 0.0, "F05"),
    link("gateway", "valkey", "hang", 3.0, "F04"),
    link("flusher", "valkey", "cut", 0.0, "F05"),
    link("flusher", "valkey", "hang", 3.0, "F04"),
    link("flusher", "postgres", "cut", 0.0, "F14"),
    link("flusher", "postgres", "hang", 3.0, "F18"),
    link("gateway", "postgres", "cut", 0.0, "F20"),
    link("gateway", "postgres", "hang", 3.0, "F18"),
    RedisReplyLost,
    CommitReplyLost,
    PostgresRefuses,
    PostgresSlow,
    RowsLocked,
    Deadlocks,
    BackendsTerminated,
    ConnectionsExhausted,
    handler_raises("frame", 0.02),
    handler_raises("verdict", 0.02),
    handler_raises("hello", 0.2),
    handler_raises("notice", 0.02),
    handler_raises("timer", 0.2),
)

assert len({kind.name for kind in KINDS}) == len(KINDS)


def find_kind(name: str) -> type[Fault] | None:
    return next((kind for kind in KINDS if kind.name == name), None)
