"""
Every Lua script opens with a header that names its keys, its arguments and its answer, and then binds exactly these.

    python tools/check_lua.py

    --[[
    What it does, and what happens when it runs twice.

    KEYS                              (left out when there are none; `KEYS, any number` when it is called with many)
      name   type   what it is
    ARGV
      name   what it is
    RETURNS
      what comes back
    ]]
    local name = KEYS[1]

What several scripts do alike is in `parts/`; such a file opens with a comment, too, and knows no KEYS and ARGV: the
script that includes it (`-- include NAME`) binds what it needs.

Callers pass keys and arguments by position, so the header is the only place that says which is which: it must not lie.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = "persistence/hot/lua"
KEY_TYPES = ("hash", "list", "zset", "set", "string", "stream")

HEADER = re.compile(r"\A--\[\[\n(.*?)\n\]\]\n", re.DOTALL)
SECTION = re.compile(r"^(KEYS|ARGV|RETURNS)\b.*$", re.MULTILINE)
ENTRY = re.compile(r"^  (\w+)(?: +(.*))?$")
BINDING = re.compile(r"^[ \t]*local ([\w, ]+?) = (.*)$")
USE = re.compile(r"\b(KEYS|ARGV)\[([^\]]+)\]")
INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)
LOOP = re.compile(r"for \w+, (\w+) in ipairs\((KEYS|ARGV)\)")


def main() -> int:
    problems = [problem for path in list_scripts(ROOT) for problem in list_problems(path)]
    problems += [problem for path in list_parts(ROOT) for problem in list_part_problems(path)]
    for problem in problems:
        print(problem)
    print(f"check_lua: {len(problems)} problems" if problems else f"check_lua: ok ({len(list_scripts(ROOT))} scripts)")
    return 1 if problems else 0


def list_scripts(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("*.lua"))


def list_parts(root: Path) -> list[Path]:
    return sorted((root / FOLDER / "parts").glob("*.lua"))


def list_part_problems(path: Path) -> list[str]:
    """What is wrong with a part of scripts, one line each."""
    text = path.read_text("utf-8")
    header = HEADER.match(text)
    if header is None:
        return [f"parts/{path.name}: does not open with a comment on what it is"]
    uses = USE.findall(_strip_comments(text[header.end() :]))
    return [f"parts/{path.name}: uses {table}[{place}], which is the script's own" for table, place in uses]


def list_problems(path: Path) -> list[str]:
    """What is wrong with one script, one line each."""
    text = path.read_text("utf-8")
    header = HEADER.match(text)
    if header is None:
        return [f"{path.name}: does not open with a header (`--[[` alone on the first line … `]]` alone on the last)"]
    body = _strip_comments(text[header.end() :])
    problems = [
        f"there is no part {part}"
        for part in INCLUDE.findall(text)
        if not (path.parent / "parts" / f"{part}.lua").exists()
    ]
    sections = _read_sections(header[1])
    if not header[1].split("\n", 1)[0].strip() or SECTION.match(header[1]):
        problems.append("the header does not begin with what the script does")
    if "RETURNS" not in sections:
        problems.append("the header has no RETURNS")
    if list(sections) != [name for name in ("KEYS", "ARGV", "RETURNS") if name in sections]:
        problems.append("the header's sections are not in the order KEYS, ARGV, RETURNS")
    for entry, rest in sections.get("KEYS", []):
        if rest.split(" ", 1)[0] not in KEY_TYPES:
            problems.append(f"key {entry} has no type ({', '.join(KEY_TYPES)})")
    for table in ("KEYS", "ARGV"):
        problems += _compare(table, [name for name, _ in sections.get(table, [])], body)
    return [f"{path.name}: {problem}" for problem in problems]


def _compare(table: str, declared: list[str], body: str) -> list[str]:
    bound: dict[int, str] = {}
    problems = []
    bound_uses = 0
    for line in body.splitlines():
        match = BINDING.match(line)
        if match is None:
            continue
        names = [name.strip() for name in match[1].split(",")]
        for name, expression in zip(names, _split_expressions(match[2]), strict=False):
            uses = [use for use in USE.findall(expression) if use[0] == table]
            bound_uses += len(uses)
            for _, index in uses:
                place = _read_index(index)
                if place is None:
                    problems.append(f"{table}[{index}] is not bound by its number")
                elif place in bound:
                    problems.append(f"{table}[{index}] is bound twice")
                else:
                    bound[place] = name
    for name, _ in (match for match in LOOP.findall(body) if match[1] == table):
        bound.setdefault(1, name)
    uses_in_all = sum(use[0] == table for use in USE.findall(body))
    if uses_in_all != bound_uses:
        problems.append(f"{table}[…] is used {uses_in_all - bound_uses} times without being bound to a local first")
    names_in_order = [bound[place] for place in sorted(bound)]
    if names_in_order != declared or sorted(bound) != list(range(1, len(bound) + 1)):
        problems.append(
            f"the header names {table} {', '.join(declared) or 'none'}; "
            f"the script binds {', '.join(f'{place}={bound[place]}' for place in sorted(bound)) or 'none'}"
        )
    return problems


def _read_sections(header: str) -> dict[str, list[tuple[str, str]]]:
    """Section → (name, the rest of its line). Deeper indented lines go on with the entry above them."""
    sections: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in header.splitlines():
        section = SECTION.match(line)
        entry = ENTRY.match(line)
        if section:
            current = sections.setdefault(section[1], [])
        elif entry:
            current.append((entry[1], (entry[2] or "").strip()))
    return sections


def _read_index(index: str) -> int | None:
    """`3` is 3; `first_key` is 1 and `first_key + 2` is 3: with many groups the numbers are relative."""
    match = re.fullmatch(r"(\d+)|[a-z_]\w*(?: \+ (\d+))?", index.strip())
    if match is None:
        return None
    return int(match[1]) if match[1] else 1 + int(match[2] or 0)


def _split_expressions(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _strip_comments(body: str) -> str:
    return "\n".join(re.sub(r"--(?!\[\[).*$", "", line) for line in body.splitlines())


if __name__ == "__main__":
    sys.exit(main())
