"""The version of this release, as it is installed."""

from __future__ import annotations

from functools import cache


@cache
def get_version() -> str:
    # Imported here: it takes longer than everything else that `wayhold --help` needs.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wayhold")
    except PackageNotFoundError:
        return "unknown"
