"""
Look at everything that a worried operator would, and say what to do about each finding.

With a `dev` running on the data folder it looks at that one; otherwise at what `serve` or `dev` would use with the
present settings. Changes nothing. The exit code is 0 when nothing is wrong, 1 when something is; warnings are no fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from gateway.app.checks import get_postgres_facts, get_redis_facts
from gateway.app.children import open_listeners
from gateway.app.dev_folder import check_is_ours
from gateway.app.errors import CommandError, ExitCode, PortTaken, SettingsError
from gateway.app.experience_files import load_experiences
from gateway.app.launch import FILES_SPARE, FILES_WANTED
from gateway.app.ops_client import find_json, find_metrics
from gateway.app.ready import FILE_NAME, Ready, find_running, is_alive, read_ready
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings
from gateway.app.typed import typed_command, typed_data_dir
from persistence.embedded.data_folder import find_owner_pid

CLOCK_SKEW_WARN_S = 2.0
MEMORY_WARN_PART = 0.8
OLDEST_PENDING_INTERVALS = 3.0
PYTHON_FLOOR = (3, 11)


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and the step to take (empty when there is nothing to do)."""

    name: str
    state: State
    says: str
    next_step: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--ready-json", metavar="FILE", type=Path, help="the file that `serve` wrote: look at that one")
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    findings = list(examine(args))
    is_bad = any(finding.state is State.FAIL for finding in findings)
    if args.json:
        print(json.dumps({"ok": not is_bad, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return ExitCode.BAD_VERDICT if is_bad else ExitCode.OK
    for finding in findings:
        print(f"{finding.state:<4}  {finding.name}: {finding.says}")
        if finding.next_step:
            print(f"        → {finding.next_step}")
    count = sum(finding.state is State.FAIL for finding in findings)
    print(f"doctor: {'FAILED' if is_bad else 'ok'} findings={len(findings)} wrong={count}")
    return ExitCode.BAD_VERDICT if is_bad else ExitCode.OK


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """Every finding, in the order in which one would fix them."""
    yield from examine_installation()
    try:
        loaded = load_settings(args)
    except SettingsError as error:
        yield Finding("settings", State.FAIL, error.what, error.next_step)
        return
    settings = loaded.settings
    yield Finding("settings", State.OK, f"{sum(map(loaded.is_given, loaded.sources))} given, the rest by default")
    yield from examine_experiences(settings)
    running = find_running(settings.data_dir, args.ready_json)
    is_external = settings.redis_url is not None and settings.database_url is not None
    if running is None and not is_external:
        yield from examine_servers_of_wheels(settings)
    yield from examine_folder(settings, running)
    yield from examine_ports(settings, running)
    yield from examine_limits(settings, is_crowd_given=loaded.is_given("connections_max"))
    yield from examine_key(settings)
    redis_url = settings.redis_url or (running.redis_url if running else None)
    database_url = settings.database_url or (running.database_url if running else None)
    yield from asyncio.run(examine_servers(redis_url, database_url))
    yield from examine_running(settings, running)


def examine_installation() -> Iterator[Finding]:
    """Python and the packages, against what this release was made for."""
    here = platform.python_version()
    if sys.version_info < PYTHON_FLOOR:
        yield Finding("python", State.FAIL, f"{here} is too old", "install Python 3.11 or newer")
    else:
        yield Finding("python", State.OK, f"{here} ({platform.system()} {platform.machine()})")
    missing = []
    try:
        wanted = requires("wayhold") or []
    except PackageNotFoundError:
        yield Finding("packages", State.WARN, "wayhold is not installed, this is a source tree", "pip install -e .")
        return
    for requirement in wanted:
        if "extra ==" in requirement or "sys_platform" in requirement:
            continue
        name = requirement.split(">")[0].split("<")[0].split("[")[0].split("=")[0].split(";")[0].strip()
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", State.FAIL, f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Finding("packages", State.OK, f"wayhold {version('wayhold')} with all it needs")


def examine_experiences(settings: Settings) -> Iterator[Finding]:
    """Whether every definition can be used: one that cannot stops the next start."""
    try:
        found = load_experiences(settings)
    except SettingsError as error:
        yield Finding("experiences", State.FAIL, error.what, error.next_step)
    else:
        yield Finding("experiences", State.OK, ", ".join(found) or "no definitions: all are played as they are sent")


def examine_servers_of_wheels(settings: Settings) -> Iterator[Finding]:
    """Whether `dev` would find servers to start."""
    from persistence.embedded.binaries import get_postgres, get_valkey
    from persistence.embedded.errors import EmbeddedError

    for name, url, get in (
        ("embedded valkey", settings.redis_url, get_valkey),
        ("embedded postgres", settings.database_url, get_postgres),
    ):
        if url is not None:
            continue
        try:
            found = get()
        except EmbeddedError as error:
            yield Finding(name, State.FAIL, error.reason, error.advice)
        else:
            yield Finding(name, State.OK, f"{found.version} at {found.path}")


def examine_folder(settings: Settings, running: Ready | None) -> Iterator[Finding]:
    path = settings.data_dir.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        check_is_ours(path)
    except CommandError as error:
        yield Finding("data folder", State.FAIL, error.what, error.next_step)
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "data folder", State.FAIL, f"{existing} cannot be written to", "choose another folder with --data-dir"
        )
        return
    free = shutil.disk_usage(existing).free
    free_text = f"{free / 2**30:.1f} GiB free"
    owner = find_owner_pid(path)
    if free < settings.disk_free_min_bytes:
        yield Finding("data folder", State.FAIL, f"{path}: the disk is nearly full, {free_text}", "make room")
    elif owner is not None and running is None:
        yield Finding(
            "data folder",
            State.WARN,
            f"{path} is held by process {owner}, which is not ready (starting or stopping), {free_text}",
            f"wait a moment, or look into {path / 'logs'}",
        )
    else:
        state = f"in use by process {owner}" if owner else ("free" if path.exists() else "not made yet")
        yield Finding("data folder", State.OK, f"{path}: {state}, {free_text}")
    left = read_ready(path / FILE_NAME)
    if left is not None and running is None and owner is None:
        orphans = [name for name, pid in left.processes.items() if is_alive(pid)]
        yield Finding(
            "last end",
            State.WARN,
            "the last supervisor was killed" + (f"; still ending: {', '.join(orphans)}" if orphans else ""),
            f"nothing to repair: the next start finds all data ({typed_command()} dev{typed_data_dir(path)})",
        )


def examine_ports(settings: Settings, running: Ready | None) -> Iterator[Finding]:
    if running is not None:
        yield Finding("ports", State.OK, f"{running.play_url} and {running.ops_url}, by the one that runs")
        return
    for name, host, port in (
        ("play", settings.play_host, settings.play_port),
        ("ops", settings.ops_host, settings.ops_port),
    ):
        try:
            for listener in open_listeners(host, port, 1, name):
                listener.close()
        except (PortTaken, SettingsError) as error:
            yield Finding(f"{name} port", State.FAIL, error.what, error.next_step)
        else:
            yield Finding(f"{name} port", State.OK, f"{port} on {host} is free" if port else "any free one")
    if settings.ops_host not in ("127.0.0.1", "::1", "localhost"):
        yield Finding(
            "ops port",
            State.WARN,
            f"it listens on {settings.ops_host} and has no login",
            "keep that network closed to strangers, or set WAYHOLD_OPS_HOST=127.0.0.1",
        )


def examine_limits(settings: Settings, *, is_crowd_given: bool) -> Iterator[Finding]:
    """A gateway takes as many players as it has files for; that is worth a warning only to whoever wants more."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if is_crowd_given and possible < settings.connections_max + FILES_SPARE:
        yield Finding(
            "open files",
            State.WARN,
            f"a process may open {possible} files, connections_max is {settings.connections_max}",
            f"raise it (ulimit -n {settings.connections_max + FILES_SPARE}), or lower WAYHOLD_CONNECTIONS_MAX",
        )
    else:
        players = min(settings.connections_max, possible - FILES_SPARE)
        yield Finding(
            "open files", State.OK, f"{possible} for each process, so up to {players} players for each gateway"
        )
    cores = os.cpu_count() or 1
    if settings.workers > cores:
        yield Finding(
            "cores",
            State.WARN,
            f"workers is {settings.workers} on {cores} cores",
            f"set WAYHOLD_WORKERS to {cores} or less",
        )


def examine_key(settings: Settings) -> Iterator[Finding]:
    path = settings.jwt_secret_file or settings.data_dir / "jwt_secret"
    if settings.jwt_secret is None and not path.exists():
        if settings.jwt_secret_file is not None:
            yield Finding("token key", State.FAIL, f"{path} is not there", "correct WAYHOLD_JWT_SECRET_FILE")
        else:
            yield Finding("token key", State.OK, "none yet: `dev` makes one, `serve` needs WAYHOLD_JWT_SECRET_FILE")
        return
    if settings.jwt_secret is not None:
        yield Finding("token key", State.OK, "from WAYHOLD_JWT_SECRET")
        return
    try:
        mode = path.stat().st_mode & 0o777
        if settings.jwt_secret_file is not None:
            settings.get_jwt_secret()
    except (OSError, SettingsError) as error:
        yield Finding("token key", State.FAIL, str(error), "correct WAYHOLD_JWT_SECRET_FILE")
        return
    if mode & 0o077:
        yield Finding("token key", State.WARN, f"others may read {path}", f"chmod 600 {path}")
    else:
        yield Finding("token key", State.OK, str(path))


async def examine_servers(redis_url: str | None, database_url: str | None) -> list[Finding]:
    findings: list[Finding] = []
    if redis_url is not None:
        findings += await _examine_redis(redis_url)
    if database_url is not None:
        findings += await _examine_postgres(database_url)
    return findings


async def _examine_redis(url: str) -> list[Finding]:
    try:
        facts = await get_redis_facts(url)
    except CommandError as error:
        return [Finding("redis", State.FAIL, error.what, error.next_step)]
    unfit = facts.find_unfit()
    if unfit is not None:
        return [Finding("redis", State.FAIL, *unfit)]
    findings = [Finding("redis", State.OK, f"{facts.product} {facts.version} answers")]
    risks = facts.list_risks()
    if risks:
        findings.append(
            Finding(
                "redis safety",
                State.FAIL,
                "; ".join(risks),
                "set maxmemory-policy noeviction and appendonly yes in its configuration",
            )
        )
    else:
        findings.append(Finding("redis safety", State.OK, "noeviction, append-only file on"))
    if facts.maxmemory_bytes and facts.used_bytes > MEMORY_WARN_PART * facts.maxmemory_bytes:
        part = facts.used_bytes / facts.maxmemory_bytes
        findings.append(
            Finding(
                "redis memory",
                State.WARN,
                f"{part:.0%} of maxmemory is used",
                "look at the backlog below; raise maxmemory if it is not that",
            )
        )
    findings += _examine_clock("redis clock", facts.clock_ahead_s)
    return findings


async def _examine_postgres(url: str) -> list[Finding]:
    try:
        facts = await get_postgres_facts(url)
    except CommandError as error:
        return [Finding("postgres", State.FAIL, error.what, error.next_step)]
    findings = []
    if facts.is_read_only:
        findings.append(
            Finding("postgres", State.FAIL, f"{facts.version} is read-only", "give the address of the primary")
        )
    else:
        findings.append(Finding("postgres", State.OK, f"{facts.version} answers"))
    if facts.is_schema_current:
        findings.append(Finding("schema", State.OK, f"{facts.schema_applied} is current"))
    elif facts.schema_applied > facts.schema_newest:
        findings.append(
            Finding(
                "schema",
                State.FAIL,
                f"{facts.schema_applied} is newer than this release ({facts.schema_newest})",
                "install the newer wayhold",
            )
        )
    else:
        findings.append(
            Finding(
                "schema",
                State.FAIL,
                f"{facts.schema_applied}, this release needs {facts.schema_newest}",
                f"{typed_command()} migrate",
            )
        )
    if facts.append_only_gap:
        findings.append(
            Finding(
                "append-only",
                State.WARN,
                f"not in force: {facts.append_only_gap}",
                f"{typed_command()} migrate as a login that may create roles, or grant wayhold_app to this login",
            )
        )
    elif facts.is_schema_current:
        findings.append(Finding("append-only", State.OK, "gateways and flushers cannot change what happened"))
    findings += _examine_clock("postgres clock", facts.clock_ahead_s)
    return findings


def _examine_clock(name: str, ahead_s: float) -> Iterable[Finding]:
    if abs(ahead_s) > CLOCK_SKEW_WARN_S:
        word = "ahead of" if ahead_s > 0 else "behind"
        return [
            Finding(
                name,
                State.WARN,
                f"{abs(ahead_s):.1f} s {word} this machine",
                "run a time service (chrony, systemd-timesyncd) on both",
            )
        ]
    return [Finding(name, State.OK, "agrees with this machine")]


def examine_running(settings: Settings, running: Ready | None) -> Iterator[Finding]:
    """The gateway and the flusher, as their ops port tells."""
    if running is None:
        yield Finding(
            "running", State.OK, "nothing runs here", f"{typed_command()} dev{typed_data_dir(settings.data_dir)}"
        )
        return
    missing = [name for name, pid in running.processes.items() if not is_alive(pid)]
    kinds = {name.split("-")[0] for name in running.processes}
    for kind in ("gateway", "flusher"):
        if kind not in kinds or any(name.startswith(kind) for name in missing):
            yield Finding(
                kind,
                State.FAIL,
                f"a {kind} is not running just now",
                f"look into {_logs(running)}; the supervisor starts it again",
            )
        else:
            names = [f"{name} {pid}" for name, pid in running.processes.items() if name.startswith(kind)]
            yield Finding(kind, State.OK, ", ".join(names))
    answer = find_json(running.ops_url, "/readyz")
    if answer is None:
        yield Finding(
            "readiness",
            State.FAIL,
            f"{running.ops_url}/readyz does not answer",
            f"look into {_logs(running, 'gateway-1.log')}",
        )
    elif answer[0] == 200:
        reasons = "; ".join(map(str, answer[1].get("reasons", [])))
        yield Finding("readiness", State.WARN if reasons else State.OK, reasons or "ready", _step(reasons))
    else:
        reasons = "; ".join(map(str, answer[1].get("reasons", []))) or "no reason given"
        yield Finding("readiness", State.FAIL, reasons, _step(reasons))
    yield from _examine_backlog(settings, running)


def _logs(running: Ready, name: str = "") -> str:
    return str(Path(running.data_dir, "logs", name)) if running.data_dir else "its log (stderr)"


def _step(reasons: str) -> str:
    return "see the finding of that part above" if reasons else ""


def _examine_backlog(settings: Settings, running: Ready) -> Iterator[Finding]:
    metrics = find_metrics(running.ops_url)
    if metrics is None:
        yield Finding("backlog", State.WARN, "unknown: /metrics does not answer", "see readiness above")
        return
    pending = metrics.get("wayhold_pending_updates", 0.0)
    oldest_s = metrics.get("wayhold_oldest_pending_seconds", 0.0)
    # A progress becomes due one interval after its first update; what is long past that is not being flushed.
    if oldest_s > max(OLDEST_PENDING_INTERVALS * settings.flush_interval_s, settings.claim_lease_s + 10):
        yield Finding(
            "backlog",
            State.FAIL,
            f"{pending:g} entries wait for Postgres, the oldest for {oldest_s:.0f} s",
            f"look at postgres above and into {_logs(running, 'flusher-1.log')}",
        )
    else:
        yield Finding("backlog", State.OK, f"{pending:g} entries wait for Postgres, the oldest for {oldest_s:.1f} s")
    dead_letters = metrics.get("wayhold_dead_letters", 0.0)
    if dead_letters:
        yield Finding(
            "dead letters",
            State.WARN,
            f"Postgres refused {dead_letters:g} events",
            "read them: SELECT reason, sqlstate, payload FROM dead_letters ORDER BY created_at",
        )
