"""
The `wayhold` command: a table of command → module. A module is imported when its command runs, so that `--help` is
quick and a broken extra breaks only the command that needs it.

A command's module has a docstring whose first line is the help, `add_arguments(parser)` and `run(args) -> exit code`.
Promise: what a user can cause ends in one line on stderr that says what to do next, and an exit code that scripts can
rely on: 0 ok, 1 bad verdict, 2 usage or settings, 3 something needed is missing or unfit, 4 data folder busy,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS: dict[str, str] = {
    "dev": "gateway.app.dev",
    "walk": "loadtest.walk",
    "loadtest": "loadtest.command",
    "status": "gateway.app.status",
    "stop": "gateway.app.stop",
    "doctor": "gateway.app.doctor",
    "token": "gateway.app.token",
    "settings": "gateway.app.show_settings",
    "experiences": "gateway.app.experiences",
    "serve": "gateway.app.serve",
    "flusher": "gateway.app.run_flusher",
    "migrate": "gateway.app.migrate",
    "verify": "gateway.app.verify",
    "analytics": "gateway.app.analytics",
    "fill": "gateway.app.fill",
    "top": "gateway.app.operate.top",
    "sessions": "gateway.app.operate.sessions",
    "nodes": "gateway.app.operate.nodes",
    "show": "gateway.app.operate.show",
    "trace": "gateway.app.operate.trace",
    "tail": "gateway.app.operate.tail",
    "audit": "gateway.app.operate.audit",
    "say": "gateway.app.operate.say",
    "kick": "gateway.app.operate.kick",
    "ban": "gateway.app.operate.ban",
    "unban": "gateway.app.operate.unban",
    "grant": "gateway.app.operate.grant",
    "edit": "gateway.app.operate.edit",
    "undo": "gateway.app.operate.undo",
    "maintenance": "gateway.app.operate.maintenance",
    "drain": "gateway.app.operate.drain",
    "deadletters": "gateway.app.deadletters",
    "backup": "gateway.app.backup",
    "restore": "gateway.app.restore",
    "export": "gateway.app.export",
    "erase": "gateway.app.erase",
    "operators": "gateway.app.operators",
}

USAGE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _main(list(arguments))
        # Here and not at the end of the process: there a reader that has gone away is a complaint without a handler.
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        # `dev` is ended by Ctrl-C and by nothing else, so even one that came before it listened is no failure.
        return 0 if arguments[:1] == ["dev"] else INTERRUPTED
    except BrokenPipeError:
        # `wayhold settings | head`: the reader has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        print(_version_line())
        return 0
    name, rest = arguments[0], arguments[1:]
    module_name = COMMANDS.get(name)
    if module_name is None:
        return _refuse("wayhold", f"there is no command {name!r}{_suggest(name, COMMANDS)}; see wayhold --help")
    from importlib import import_module

    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or "?"
        if missing == module_name:
            return _refuse(f"wayhold {name}", "this installation does not have that command; install it again", code=3)
        return _refuse(f"wayhold {name}", f"the package {missing} is missing; pip install 'wayhold[embedded]'", code=3)
    parser = _Parser(
        prog=f"wayhold {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action=_ShowVersion, help="show the version")
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    from gateway.app.errors import find_command_error

    try:
        if not module_name.startswith("gateway."):
            # Ours look when they load their settings. The others load none, and must not ignore a typo either.
            from gateway.app.settings_source import check_environment_names

            check_environment_names(os.environ)
        return int(module.run(args))
    except Exception as error:
        found = find_command_error(error)
        if found is None:
            raise
        for line in getattr(found, "log_tail", []):
            print(f"  | {line}", file=sys.stderr)
        return _refuse(f"wayhold {name}", str(found), code=int(found.exit_code))


class _Parser(argparse.ArgumentParser):
    """argparse, but what is wrong is one line."""

    def error(self, message: str) -> NoReturn:
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            flag = message.removeprefix(prefix).split()[0].split("=")[0]
            message = f"unknown argument {flag}{_suggest(flag, self._option_string_actions)}"
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


class _ShowVersion(argparse.Action):
    """Like argparse's own, but the version is looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(_version_line())
        parser.exit(0)


def _version_line() -> str:
    from gateway.app.version import get_version

    return f"wayhold {get_version()}"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: wayhold COMMAND [--help]",
        "",
        "A WebSocket session gateway for games played on the move: no step lost, none counted twice.",
        "",
        *(f"  {name:<{width}}  {_read_help(module)}" for name, module in COMMANDS.items()),
        "",
        "First time here: wayhold dev, and in another terminal: wayhold walk",
    ]
    return "\n".join(lines)


def _read_help(module_name: str) -> str:
    """The first line of a module's docstring, read from its file: importing eleven modules takes a second."""
    from importlib.util import find_spec

    try:
        spec = find_spec(module_name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return "(not installed)"
    with open(spec.origin, encoding="utf-8") as source:  # noqa: PTH123 - pathlib would be imported for this alone
        text = source.read(2048)
    parts = text.split('"""', 2)
    docstring = parts[1].strip() if len(parts) == 3 or (len(parts) == 2 and text.lstrip().startswith('"""')) else ""
    return docstring.split("\n", 1)[0]


def _suggest(name: str, names: object) -> str:
    from gateway.app.suggest import suggest

    return suggest(name, names)  # type: ignore[arg-type]


def _refuse(who: str, message: str, code: int = USAGE) -> int:
    print(f"{who}: {message}", file=sys.stderr)
    return code
