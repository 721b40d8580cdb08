"""
The questions of `wayhold analytics` for the live-ops API: the same answers, with parameters instead of arguments.

What was asked wrongly is refused the same way, as 422 with the line that the command would print.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from gateway.app import report
from gateway.app.analytics import ask_question, describe_arguments
from gateway.app.errors import CommandError
from gateway.liveops.errors import invalid
from persistence.analytics import Analytics
from protocol.experience import ExperienceDefinition


async def answer_analytics(
    analytics: Analytics,
    definitions: Mapping[str, ExperienceDefinition],
    question: str,
    given: Mapping[str, str],
) -> dict[str, Any]:
    """What `--json` prints. Raises ApiError for what was asked wrongly, StoreUnavailable."""
    parser = _Parser(allow_abbrev=False, add_help=False, exit_on_error=False)
    describe_arguments(parser)
    try:
        args = parser.parse_args([question, *_arguments(question, given)])
        answer = await ask_question(analytics, definitions, args, datetime.now(UTC))
    except CommandError as wrong:
        raise invalid(wrong.what, wrong.next_step or "correct it and ask again") from None
    except (argparse.ArgumentError, ValueError) as wrong:
        raise invalid(str(wrong)) from None
    found: dict[str, Any] = json.loads(report.to_json(answer))
    return found


class _Parser(argparse.ArgumentParser):
    """argparse, but what is wrong is an exception."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


_FLAGS = {"experience", "from", "to", "type", "top", "bounds", "idle_days"}


def _arguments(question: str, given: Mapping[str, str]) -> list[str]:
    """Each value is one word behind its flag or behind `--`, so that none can be taken for a flag."""
    words = []
    for name, value in given.items():
        if name in _FLAGS:
            words.append(f"--{name.replace('_', '-')}={value}")
        elif name == "players" and value.lower() in ("1", "true", "yes"):
            words.append("--players")
        elif name not in ("content", "steps", "players"):
            raise ValueError(f"{name[:40]}: is no parameter of {question}")
    named = [given["content"]] if "content" in given else given.get("steps", "").split(",")
    if question in ("engagement", "funnel"):
        words += ["--", *(name.strip() for name in named if name.strip())]
    return words
