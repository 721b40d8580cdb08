"""How a tombstone knows an erased player and the devices they had without naming them: keyed hashes."""

from __future__ import annotations

import hmac


def hash_of(hash_key: bytes, kind: str, name: str) -> bytes:
    """`kind` is "user" or "device"; `hash_key` belongs to the installation, so the hash is of no use elsewhere."""
    return hmac.digest(hash_key, f"{kind}:{name}".encode(), "sha256")
