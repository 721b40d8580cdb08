"""
Under which names the ops port may be asked.

A page of somebody else can give its own name the address 127.0.0.1 after it was loaded. Then the browser takes us for
the server of that page and shows it our answers; what it cannot change is the name in the request. An address is no
name, and nobody can make it mean something else; a browser sends a name always, so what comes without one is a program.
"""

from __future__ import annotations

import ipaddress


class Hosts:
    """`bound_to`: where the port listens. `names`: by commas; without any, and not on loopback, all are taken."""

    def __init__(self, bound_to: str, names: str) -> None:
        self._names = {_plain(name) for name in names.split(",") if name.strip()}
        self._takes_all = "*" in self._names or (not self._names and not _is_loopback(bound_to))

    def takes(self, host: bytes) -> bool:
        """The Host header; empty when there is none."""
        if self._takes_all or not host:
            return True
        name = _plain(host.decode("latin-1"))
        return name in self._names or _is_loopback(name) or _is_address(name)


def _plain(host: str) -> str:
    """Without a port, a closing dot and the brackets of IPv6; in small letters."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and ":" not in name else host).rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    # Browsers keep these names to themselves, whatever a name server says.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ipaddress.ip_address(name).is_loopback
