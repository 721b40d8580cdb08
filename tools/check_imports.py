"""
Imports only ever point down the layout, and what belongs to one layer alone stays in it.

    python tools/check_imports.py

Imports inside functions count too: a lazy import still is a dependency. The one exception is the command table, which
imports nothing at all while it is imported, so that `wayhold --help` needs no server library.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

_PERSISTENCE = ("persistence", "persistence.hot", "persistence.cold", "persistence.flusher", "protocol")

# Layer → what it may import besides itself. A module belongs to the layer with the longest matching name.
LAYERS: dict[str, tuple[str, ...]] = {
    "protocol": (),
    "protocol.client": ("protocol",),
    "persistence": ("protocol",),
    # What was read from Postgres is installed into Redis; the other way goes through the flusher.
    "persistence.hot": ("persistence", "persistence.cold", "protocol"),
    "persistence.cold": ("persistence", "protocol"),
    "persistence.flusher": ("persistence", "persistence.hot", "persistence.cold", "protocol"),
    "persistence.embedded": ("persistence", "persistence.hot", "persistence.cold", "protocol"),
    # Operations on all of persistence at once; they stand above its parts.
    "persistence.erase": _PERSISTENCE,
    "persistence.warmer": ("persistence", "persistence.hot", "persistence.cold", "protocol"),
    "persistence.actions": ("persistence", "persistence.hot", "persistence.cold", "protocol"),
    "persistence.player_progress": (
        *("persistence", "persistence.actions", "persistence.warmer", "persistence.leaderboards"),
        *("persistence.hot", "persistence.cold", "protocol"),
    ),
    "persistence.dead_letters": _PERSISTENCE,
    "persistence.connections": ("persistence", "persistence.cold", "protocol"),
    "persistence.operators": ("persistence", "persistence.cold", "protocol"),
    "persistence.retention": _PERSISTENCE,
    "persistence.verify": _PERSISTENCE,
    "persistence.export": _PERSISTENCE,
    "persistence.remains": _PERSISTENCE,
    "persistence.fill": _PERSISTENCE,
    "persistence.analytics": ("persistence", "persistence.cold", "protocol"),
    "persistence.leaderboards": ("persistence", "persistence.hot", "persistence.cold", "protocol"),
    "gateway.telemetry": _PERSISTENCE,
    "gateway.sessions": (
        *("gateway.telemetry", "persistence", "persistence.hot", "persistence.cold", "protocol"),
        *("persistence.actions", "persistence.player_progress", "persistence.leaderboards", "persistence.connections"),
    ),
}
LAYERS["gateway.sockets"] = ("gateway.sessions", *LAYERS["gateway.sessions"])
# Siblings: neither of the two imports the other.
LAYERS["gateway.liveops"] = (
    *("persistence.analytics", "persistence.operators", "persistence.export", "persistence.dead_letters"),
    *("persistence.erase", "persistence.warmer", *LAYERS["gateway.sockets"]),
)
LAYERS["gateway.app"] = (
    *("gateway.sockets", "gateway.liveops", *LAYERS["gateway.sockets"]),
    *("persistence.flusher", "persistence.embedded", "persistence.erase", "persistence.dead_letters"),
    *("persistence.verify", "persistence.retention", "persistence.export", "persistence.remains"),
    *("persistence.fill", "persistence.analytics", "persistence.operators"),
)
# Simulated players stand beside everything: a load test that leaned on the gateway's code would share its mistakes.
LAYERS["loadtest"] = ("protocol", "protocol.client")
LAYERS["gateway.cli"] = ("gateway.app", *LAYERS["gateway.app"], "protocol.client", "loadtest")
# The package itself holds the version, for whoever says it.
LAYERS["gateway"] = ()
for _layer in [layer for layer in LAYERS if layer.startswith("gateway.")]:
    LAYERS[_layer] += ("gateway",)

# Library → the layers (with all below them) that may use it. Others reach it through these.
LIBRARIES: dict[str, tuple[str, ...]] = {
    # The composition root judges the servers it is given before it builds anything on them.
    "redis": ("persistence", "gateway.app"),
    # The audit reads Postgres with its own SQL.
    "asyncpg": ("persistence", "gateway.app", "loadtest"),
    "websockets": ("gateway.sockets", "protocol.client", "gateway.app"),
    # The composition root names the app that it serves.
    "fastapi": ("gateway.liveops", "gateway.app"),
    "argon2": ("persistence.operators",),
    "starlette": ("gateway.liveops", "gateway.telemetry", "gateway.app"),
    "uvicorn": ("gateway.liveops", "gateway.telemetry", "gateway.app"),
    "prometheus_client": ("gateway",),
    "structlog": ("gateway",),
}

# Imported without importing anything of ours.
LAZY = ("gateway/cli/__init__.py", "gateway/__init__.py")

PACKAGES = ("protocol", "persistence", "gateway", "loadtest")


def main() -> int:
    problems = list_problems(ROOT)
    for problem in problems:
        print(problem)
    print(f"check_imports: {len(problems)} problems" if problems else "check_imports: ok")
    return 1 if problems else 0


def list_problems(root: Path) -> list[str]:
    """One line per import that points the wrong way."""
    problems = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            where = path.relative_to(root).as_posix()
            try:
                tree = ast.parse(path.read_text("utf-8"), where)
            except SyntaxError as error:
                problems.append(f"{where}:{error.lineno}: {error.msg}")
                continue
            for line, imported in _list_imports(tree, module, path.name == "__init__.py"):
                problem = _find_problem(module, imported)
                if problem:
                    problems.append(f"{where}:{line}: {problem}")
            if where in LAZY:
                problems += [
                    f"{where}:{node.lineno}: imports {name} while it is imported; do it inside a function"
                    for node in tree.body
                    for name in _list_names(node, module, True)
                    if name.split(".")[0] not in sys.stdlib_module_names
                ]
    return problems


def _find_problem(module: str, imported: str) -> str | None:
    layer = _get_layer(module)
    top = imported.split(".")[0]
    if top in PACKAGES:
        target = _get_layer(imported)
        if target != layer and target not in LAYERS[layer]:
            return f"{layer} may not import {target} ({imported})"
    elif top == "tests" or top == "tools":
        return f"{layer} may not import {top}"
    elif top in LIBRARIES and not any(_is_below(module, user) for user in LIBRARIES[top]):
        return f"{layer} may not use {top}; it belongs to {', '.join(LIBRARIES[top])}"
    return None


def _get_layer(module: str) -> str:
    return max((layer for layer in LAYERS if _is_below(module, layer)), key=len)


def _is_below(module: str, layer: str) -> bool:
    return module == layer or module.startswith(layer + ".")


def _list_imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for name in _list_names(node, module, is_package):
            yield getattr(node, "lineno", 0), name


def _list_names(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = module.split(".")
            parents = parents[: len(parents) - node.level + (1 if is_package else 0)]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:
            # `from persistence import hot` names a module of another layer, `from protocol import limits` may too.
            yield f"{base}.{alias.name}"


if __name__ == "__main__":
    sys.exit(main())
