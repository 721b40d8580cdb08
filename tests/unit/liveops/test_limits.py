"""How often somebody may try to sign in, where the first link opens, and under which names the port is asked."""

from __future__ import annotations

import pytest

from gateway.liveops.hosts import Hosts
from gateway.liveops.limits import LoginLimits
from gateway.liveops.setup_key import SetupKey


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def guess(limits: LoginLimits, address: str, name: str, times: int) -> int:
    """How many of so many attempts are let through."""
    return sum(limits.find_wait_s(address, name) == 0 for _ in range(times))


def test_who_guesses_a_name_elsewhere_locks_nobody_out() -> None:
    """Eight wrong passwords from anywhere kept an operator from signing in, for as long as somebody went on."""
    limits = LoginLimits(Clock())
    assert guess(limits, "evil", "ann", 100) == 8
    assert limits.find_wait_s("office", "ann") == 0


def test_guesses_from_many_addresses_share_a_limit_that_holds_up_nobody_where_they_work() -> None:
    clock = Clock()
    limits = LoginLimits(clock)
    assert limits.find_wait_s("office", "ann") == 0
    limits.forgive("office", "ann")
    let_through = sum(guess(limits, f"bot-{number}", "ann", 8) for number in range(1000))
    assert let_through < 50
    assert limits.find_wait_s("another", "ann") > 0
    assert guess(limits, "office", "ann", 20) == 8
    clock.now += 15.1
    assert sum(guess(limits, f"later-{number}", "ann", 8) for number in range(100)) == 1


def test_one_address_may_not_try_all_names() -> None:
    limits = LoginLimits(Clock())
    assert sum(guess(limits, "evil", f"name-{number}", 1) for number in range(1000)) == 30


def test_the_first_link_opens_for_a_while_and_once() -> None:
    clock = Clock()
    key = SetupKey("key", 200.0, clock=clock)
    assert key.opens("key") and not key.opens("kez") and not key.opens("")
    clock.now = 200.0
    assert not key.opens("key")
    clock.now = 150.0
    assert not key.opens("key"), "a clock that is set back brings nothing back"
    used = SetupKey("key", 200.0, clock=clock)
    used.end()
    assert not used.opens("key") and not used.opens("")


@pytest.mark.parametrize(
    ("host", "is_taken"),
    [
        ("localhost:7401", True),
        ("console.localhost", True),
        ("127.0.0.1:7401", True),
        ("[::1]:7401", True),
        ("::1", True),
        ("192.0.2.1", True),
        ("OPS.example.org:443", True),
        ("ops.example.org.", True),
        ("", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("ops.example.org.evil.example:80", False),
        (":", False),
    ],
)
def test_on_loopback_only_our_names_are_taken(host: str, is_taken: bool) -> None:
    assert Hosts("127.0.0.1", "ops.example.org, other").takes(host.encode()) is is_taken


def test_elsewhere_any_name_is_taken_until_some_are_named() -> None:
    assert Hosts("0.0.0.0", "").takes(b"wayhold-ops")
    assert not Hosts("0.0.0.0", "ops.example.org").takes(b"wayhold-ops")
    assert Hosts("127.0.0.1", "*").takes(b"evil.example")
