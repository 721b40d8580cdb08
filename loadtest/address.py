"""
Source addresses and open files: what a machine must have for so many sockets.

One address has about 28,000 ports for connections to one gateway, which bounds the connections from one address.
Loopback has sixteen million addresses (on Linux, without asking); elsewhere they must be given.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from urllib.parse import urlsplit

from loadtest.target import TargetRefused

# Below what gateways allow from one address by default.
PLAYERS_PER_LOOPBACK_ADDRESS = 500
SOCKETS_PER_ADDRESS_MAX = 25_000
# Besides the players' sockets: pipes, logs, the loop.
FILES_OF_ITS_OWN = 64


def parse_addresses(text: str) -> list[str]:
    """Comma-separated addresses. Raises ValueError."""
    return [str(ipaddress.ip_address(part.strip())) for part in text.split(",") if part.strip()]


def is_loopback(url: str) -> bool:
    """Where every address of 127.0.0.0/8 is there without asking."""
    return sys.platform == "linux" and urlsplit(url).hostname == "127.0.0.1"


def find_source_address(url: str, given: list[str], index: int, move: int = 0) -> tuple[str, int] | None:
    """
    From which address player number `index` comes; `move` counts its changes of address. None: the system chooses.
    """
    if given:
        return given[(index + move) % len(given)], 0
    if not is_loopback(url):
        return None
    block = index // PLAYERS_PER_LOOPBACK_ADDRESS
    if not block and not move:
        return None
    # Changes of address go to a part of loopback of their own, so that no block gets too many.
    return f"127.{min(move, 200)}.{block // 250 % 256}.{1 + block % 250}", 0


def check_addresses(players: int, url: str, given: list[str]) -> None:
    """Raises TargetRefused when so many sockets cannot be opened from the addresses there are."""
    if is_loopback(url) and not given:
        return
    needed = -(-players // SOCKETS_PER_ADDRESS_MAX)
    if max(1, len(given)) < needed:
        raise TargetRefused(
            f"{players} players need {needed} source addresses ({SOCKETS_PER_ADDRESS_MAX} sockets each): "
            f"say --source-addresses with {needed} addresses of this machine, or spread them over machines with --shard"
        )


def raise_file_limit(needed: int) -> int | None:
    """Ask for so many open files; answers the limit if it stays below, None if it is enough."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft >= needed else soft


def check_files(players: int, processes: int, *, sockets_each: float = 1.0) -> None:
    """Raises TargetRefused naming the number that `ulimit -n` must be for so many players in so many processes."""
    in_one = int(-(-players // processes) * sockets_each) + FILES_OF_ITS_OWN
    limit = raise_file_limit(in_one)
    if limit is not None:
        most = int(max(0, limit - FILES_OF_ITS_OWN) * processes / sockets_each)
        enough = -(-int(players * sockets_each) // max(1, limit - FILES_OF_ITS_OWN))
        raise TargetRefused(
            f"--players {players} in {processes} processes needs {in_one} open files in each, the limit is {limit}: "
            f"type `ulimit -n {in_one}` first, or use --players {most}, or --processes {enough}"
        )
