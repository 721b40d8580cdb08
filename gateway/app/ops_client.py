"""Asks a running gateway's ops port: health and metrics, with a deadline, from outside any event loop."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024


def find_page(ops_url: str, path: str) -> tuple[int, str] | None:
    """Status and body; None when nobody answers."""
    # No proxy: this is our own port, usually on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(ops_url.rstrip("/") + path, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def find_json(ops_url: str, path: str) -> tuple[int, dict[str, Any]] | None:
    """Status and object; None when nobody answers or it is no JSON object."""
    page = find_page(ops_url, path)
    if page is None:
        return None
    try:
        found = json.loads(page[1])
    except ValueError:
        return None
    return (page[0], found) if isinstance(found, dict) else None


def find_metrics(ops_url: str) -> dict[str, float] | None:
    """The values of /metrics that have no labels; None when nobody answers."""
    page = find_page(ops_url, "/metrics")
    if page is None or page[0] != 200:
        return None
    values = {}
    for line in page[1].splitlines():
        name, _, value = line.partition(" ")
        if line.startswith("#") or "{" in name:
            continue
        try:
            values[name] = float(value)
        except ValueError:
            continue
    return values
