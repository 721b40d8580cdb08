"""
A load test from Python: for a studio's own tests, with the flags of the command as arguments.

    result = await loadtest.run(loadtest.Options(players=50, seconds=10, data_dir=".data"))
    assert result.is_ok, result

Promise: what the command refuses is refused here with the same words (`TargetRefused`, `TargetMissing`), before anybody
plays; nothing is printed; whatever happens, no player process is left behind.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.findings import Finding
from loadtest.report_flags import publish, read_report_options
from loadtest.report_html import render
from loadtest.target import TargetRefused
from loadtest.thresholds import Breach


class Options:
    """
    The flags of `wayhold loadtest`, by their names: `players=50`, `rate=2`, `data_dir=".data"`, `fail_if=["lost > 0"]`,
    `no_return=True`. See `wayhold loadtest --help`. Nothing is shown while it runs (`quiet=False`: it is).

    Raises:
        TargetRefused: no such flag, or a value that it does not take.
    """

    def __init__(self, **flags: Any) -> None:
        self.arguments: list[str] = []
        for name, value in {"quiet": True, **flags}.items():
            flag = f"--{name.replace('_', '-')}"
            if value is None or value is False:
                continue
            if value is True:
                self.arguments.append(flag)
            elif name in ("fail_if", "param", "track"):
                self.arguments += [f"{flag}={one}" for one in ([value] if isinstance(value, str) else value)]
            else:
                self.arguments.append(f"{flag}={_text(value)}")
        self.read()

    def read(self) -> argparse.Namespace:
        # Here: the command imports this package.
        from loadtest.command import add_arguments

        parser = _Parser(prog="loadtest", allow_abbrev=False)
        add_arguments(parser)
        return parser.parse_args(self.arguments)


@dataclass(slots=True)
class Result:
    """What came of a load test."""

    is_ok: bool
    last_line: str
    """As the command prints it: audit: ok offered=…"""
    figures: dict[str, float | int | None]
    """By name, as thresholds know them: `figures["ack_p99_ms"]`; None for what was not measured."""
    findings: list[Finding]
    breaches: list[Breach]
    document: dict[str, Any] = field(repr=False)
    """The whole report, as `--json` writes it."""

    def write_report(self, path: Path | str) -> None:
        """As one HTML page."""
        Path(path).write_text(render(self.document), "utf-8")

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), *(f"fail-if {breach}" for breach in self.breaches), self.last_line])


async def run(options: Options | None = None) -> Result:
    """
    Play and judge. Cancelling ends the players.

    Raises:
        TargetRefused, ExperienceRefused, TrackRefused: flags that cannot work, or files that they name.
        TargetMissing: nothing to play on, or to audit.
        OSError, TimeoutError, asyncpg.PostgresError: the database cannot be read; there is no verdict then.
    """
    from loadtest.command import prepare
    from loadtest.load_test import LoadTest

    args = (options or Options()).read()
    if read_report_options(args).is_about_reports:
        raise TargetRefused("--compare and --merge play nothing: use loadtest.compare.compare and loadtest.merge.merge")
    checked, target = prepare(args)
    folder = Path(tempfile.mkdtemp(prefix="wayhold-loadtest-"))
    try:
        report = await LoadTest(checked, target, folder).run()
        document = report.as_document()
        breaches = publish(document, checked.reports)
        if checked.history_dir is not None:
            shutil.copytree(folder, checked.history_dir, dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(
        is_ok=report.audit.is_ok and not breaches,
        last_line=report.audit.last_line(),
        figures=document["figures"],
        findings=report.audit.findings,
        breaches=breaches,
        document=document,
    )


class _Parser(argparse.ArgumentParser):
    """A caller gets an exception, not the end of its process."""

    def error(self, message: str) -> Any:
        raise TargetRefused(message)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
