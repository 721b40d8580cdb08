"""
The SQL files as named queries. A query is known by its name everywhere: in code, in logs, in metrics.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


@cache
def queries(file: str) -> dict[str, str]:
    """The queries of `sql/queries/<file>.sql` by name."""
    text = (resources.files("persistence.cold") / "sql" / "queries" / f"{file}.sql").read_text()
    parts = _NAME.split(text)
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}
