"""
Ask what players do: visits, funnels, retention, completion, playtime, sessions, where they stop.

  wayhold analytics engagement 8_inter_gravity_car --from 7d
  wayhold analytics funnel 1_gate 2_bridge quest_completed:bells --from 2026-10-01 --to 2026-10-31
  wayhold analytics retention --json

Answers are exact and as new as the last flush; times are those of the events, hours and days are UTC. The database is
that of the settings, else that of the `dev` that runs on the data folder. docs/analytics.md defines every number.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from gateway.app import report
from gateway.app.analytics_answers import (
    Asked,
    answer_active,
    answer_completion,
    answer_contents,
    answer_drop_off,
    answer_engagement,
    answer_funnel,
    answer_playtime,
    answer_ranking,
    answer_retention,
    answer_sessions,
)
from gateway.app.checks import check_postgres
from gateway.app.errors import ExitCode, SettingsError
from gateway.app.experience_files import load_experiences
from gateway.app.migrate import find_database_url
from gateway.app.report import Report, join_names
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.suggest import suggest
from gateway.app.time_window import parse_days, parse_window
from persistence.analytics import Analytics, Content, UnknownName, Window
from protocol.experience import ExperienceDefinition

VISIT = Content("").event_type
_TYPED = re.compile(r"([a-z][a-z0-9_]*):(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Question:
    """A row of the table below. `counts_days`: its --from and --to are days."""

    about: str
    example: str
    answer: Callable[[Asked], Awaitable[Report]]
    counts_days: bool = False
    has_window: bool = True
    from_default: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for sub in describe_arguments(parser):
        shape = sub.add_mutually_exclusive_group()
        shape.add_argument("--json", action="store_true", help="one JSON object")
        shape.add_argument("--csv", action="store_true", help="comma-separated, with a header")
        add_setting_flags(sub, ["database_url", "data_dir", "experiences_dir"])


def describe_arguments(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """What can be asked, a sub-parser for each question; nothing about how it is shown or where it is asked."""
    subs = []
    kinds = parser.add_subparsers(dest="question", metavar="QUESTION", required=True)
    for name, question in QUESTIONS.items():
        sub = kinds.add_parser(
            name,
            help=question.about,
            description=f"{question.about[0].upper()}{question.about[1:]}.\n\n  wayhold analytics {question.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _ARGUMENTS.get(name, _no_arguments)(sub)
        sub.add_argument("--experience", metavar="NAME", help="which; may be left out where there is only one")
        if question.has_window:
            times = "a date or 30d" if question.counts_days else "a date, an instant or how long ago (7d, 12h)"
            default = f"; {question.from_default} unless said" if question.from_default else ""
            sub.add_argument("--from", dest="since", metavar="TIME", help=f"{times}, UTC{default}")
            sub.add_argument("--to", dest="before", metavar="TIME", help="likewise; a date counts whole")
        subs.append(sub)
    return subs


def run(args: argparse.Namespace) -> int:
    settings = load_settings(args).settings
    now = datetime.now(UTC)
    _times_of(args, now)
    url = find_database_url(settings)
    if url is None:
        raise SettingsError("no database to ask", "start `wayhold dev`, or set DATABASE_URL (or give --database-url)")
    answer = asyncio.run(_ask(url, settings, args, now))
    print(report.to_json(answer) if args.json else report.to_csv(answer) if args.csv else report.to_table(answer))
    return ExitCode.OK


async def _ask(url: str, settings: Settings, args: argparse.Namespace, now: datetime) -> Report:
    await check_postgres(url, is_migrated_later=False)
    analytics = await Analytics.open(url)
    try:
        return await ask_question(analytics, load_experiences(settings), args, now)
    finally:
        await analytics.close()


async def ask_question(
    analytics: Analytics, definitions: Mapping[str, ExperienceDefinition], args: argparse.Namespace, now: datetime
) -> Report:
    """
    The answer to what `describe_arguments` has parsed.

    Raises:
        CommandError: a name or a time that cannot be.
        StoreUnavailable: Postgres did not answer.
    """
    question = QUESTIONS[args.question]
    window, days = _times_of(args, now)
    experience = args.experience or _only_one(await analytics.list_experiences())
    contents = _contents_of(args)
    await _check_names(analytics, definitions, experience, contents)
    answer = await question.answer(Asked(analytics, args, experience, window, days, contents))
    spoken = _speak(days if question.counts_days else (window.since, window.before)) if question.has_window else ""
    answer.title = f"{answer.title} in {experience}{spoken}"
    begin, end = days if question.counts_days else (window.since, window.before)
    names = ("first_day", "last_day") if question.counts_days else ("since", "before")
    asked = {"question": args.question, "experience": experience}
    answer.facts = asked | (dict(zip(names, (begin, end), strict=True)) if question.has_window else {}) | answer.facts
    return answer


def _times_of(args: argparse.Namespace, now: datetime) -> tuple[Window, tuple[date | None, date | None]]:
    question = QUESTIONS[args.question]
    since, before = getattr(args, "since", None) or question.from_default, getattr(args, "before", None)
    days = parse_days(since, before, now.date()) if question.counts_days else (None, None)
    return Window() if question.counts_days else Window(*parse_window(since, before, now)), days


def _speak(ends: tuple[date | None, date | None]) -> str:
    def say(at: date) -> str:
        return f"{at:%Y-%m-%d %H:%M}" if isinstance(at, datetime) else str(at)

    begin, end = ends
    return (f", from {say(begin)}" if begin else "") + (f", to {say(end)}" if end else "") or ", ever"


def _only_one(experiences: list[str]) -> str:
    if len(experiences) == 1:
        return experiences[0]
    if not experiences:
        raise SettingsError("nobody has played anything yet", "walk a little: wayhold walk")
    raise SettingsError("which experience?", f"give --experience; there are {join_names(experiences)}")


async def _check_names(
    analytics: Analytics,
    definitions: Mapping[str, ExperienceDefinition],
    experience: str,
    contents: Sequence[Content],
) -> None:
    """A misspelled name is an error; one that a definition knows and nobody has met yet has zeros for an answer."""
    definition = definitions.get(experience)
    known = {} if definition is None else definition.known_content()
    unsure = [content for content in contents if content.content_id not in known.get(content.event_type, ())]
    try:
        await analytics.check_names(experience, unsure)
    except UnknownName as unknown:
        if unknown.kind == "experience":
            if definition is not None:
                return
            raise SettingsError(
                f"there is no experience {experience!r}{suggest(experience, unknown.names)}",
                f"there are {join_names(unknown.names)}" if unknown.names else "nobody has played anything yet",
            ) from None
        names = {*unknown.names, *(known if unknown.kind == "event type" else frozenset[str]().union(*known.values()))}
        raise SettingsError(
            f"no event in {experience} has the {unknown.kind} {unknown.name!r}{suggest(unknown.name, sorted(names))}",
            f"see wayhold analytics contents --experience {experience}",
        ) from None


def _contents_of(args: argparse.Namespace) -> list[Content]:
    """The contents that a question names."""
    if args.question == "engagement":
        return [_content(args.content, args.type)]
    return [_content(step, args.type) for step in args.steps] if args.question == "funnel" else []


def _content(text: str, event_type: str) -> Content:
    """`quest_completed:bells` is an event of that type; an id that itself looks so is given with its type before it."""
    typed = _TYPED.fullmatch(text)
    return Content(typed[2], typed[1]) if typed else Content(text, event_type)


# ── arguments of their own ──────────────────────────────────────────────────────────────────────────────────────────


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _type(parser: argparse.ArgumentParser, default: str | None = VISIT) -> None:
    said = f" (default {default})" if default else ""
    parser.add_argument("--type", default=default, metavar="EVENT", help=f"events of this type{said}")


def _top(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--top", type=_whole(1, 1_000), default=default, metavar="N", help=f"how many rows ({default}, at most 1,000)"
    )


def _bounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bounds",
        type=_seconds,
        default="0,60,300,900,1800,3600,7200,14400,36000",
        metavar="S,S,…",
        help="where buckets begin, in seconds: 0 and rising (default 0, 1, 5, 15, 30 minutes, 1, 2, 4, 10 hours)",
    )


def _engagement_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("content", metavar="CONTENT", help="a content id, or TYPE:ID (quest_completed:bells)")
    _type(parser)


def _ranking_arguments(parser: argparse.ArgumentParser) -> None:
    _type(parser)
    _top(parser, 10)
    parser.add_argument("--players", action="store_true", help="count unique players, too: takes longer")


def _funnel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("steps", nargs="+", metavar="STEP", help="content ids in order, or TYPE:ID; at most 50")
    _type(parser)


def _drop_off_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--idle-days",), type=_whole(0, 3_650), default=7, metavar="N", help="not played for so many days (default 7)"
    )
    _top(parser, 20)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high:,}")
        return int(text)

    return parse


def _seconds(text: str) -> list[int]:
    parts = text.split(",")
    bounds = [int(part) for part in parts if part.strip().isascii() and part.strip().isdigit()]
    is_rising = bounds[:1] == [0] and bounds == sorted(set(bounds)) and bounds[-1] < 2**31
    if len(bounds) != len(parts) or not is_rising or len(bounds) > 100:
        raise argparse.ArgumentTypeError("must be whole seconds that begin with 0 and rise, as 0,60,3600")
    return bounds


_ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "engagement": _engagement_arguments,
    "ranking": _ranking_arguments,
    "funnel": _funnel_arguments,
    "playtime": _bounds,
    "sessions": _bounds,
    "dropoff": _drop_off_arguments,
    "contents": lambda parser: _type(parser, None),
}

QUESTIONS: dict[str, Question] = {
    "engagement": Question(
        "how often a content was met, by how many players, for how long",
        "engagement 8_inter_gravity_car --from 7d",
        answer_engagement,
    ),
    "ranking": Question(
        "the contents that were met most often",
        "ranking --type item_collected --from 30d --top 20",
        answer_ranking,
    ),
    "funnel": Question(
        "how many players came how far along contents in this order",
        "funnel 1_gate 2_bridge quest_completed:bells --from 2026-10-01 --to 2026-10-31",
        answer_funnel,
    ),
    "retention": Question(
        "how many new players came back after 1, 7 and 30 days",
        "retention --from 2026-10-01 --csv",
        answer_retention,
        counts_days=True,
        from_default="90d",
    ),
    "completion": Question(
        "how many players completed the experience, and each quest",
        "completion --from 30d",
        answer_completion,
    ),
    "playtime": Question(
        "how long players played in all",
        "playtime --from 30d --bounds 0,600,3600",
        answer_playtime,
        counts_days=True,
    ),
    "sessions": Question("how long sessions lasted", "sessions --from 7d", answer_sessions),
    "dropoff": Question(
        "where players stopped who do not come back",
        "dropoff --idle-days 14",
        answer_drop_off,
        has_window=False,
    ),
    "active": Question(
        "active and new players day by day",
        "active --from 14d",
        answer_active,
        counts_days=True,
        from_default="30d",
    ),
    "contents": Question(
        "what events were ever about: the names that the others take",
        "contents",
        answer_contents,
        has_window=False,
    ),
}
"""Every question, once: its help, its example, who answers it."""
