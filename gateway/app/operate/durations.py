"""Durations as people type them."""

from __future__ import annotations

import argparse
import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> float:
    """For argparse: 30s, 45m, 12h, 2d, 1w, or seconds."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw]?)", text.strip(), re.ASCII)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; such as 45m, 12h, 2d")
    return float(match[1]) * _UNITS[match[2] or "s"]
