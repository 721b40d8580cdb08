"""
`docs/protocol.md` is the reference that strangers write clients from: every frame in it must be one, every code and
number in it must be ours, and nothing of ours may be missing from it.
"""

import json
import re
import typing
from pathlib import Path
from typing import Any

from protocol import frames, limits
from protocol.closes import CLOSES
from protocol.codec import SUBPROTOCOLS
from protocol.effects import OPS
from protocol.errors import ERRORS
from protocol.events import KNOWN_EVENTS
from protocol.frames import CLIENT_FRAME_TYPES, SERVER_FRAME_TYPES, parse_client_frame, parse_server_frame
from protocol.state import KNOWN_KINDS, document, split_state

DOC = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """From a heading to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found.group(2)


def rows(text: str) -> list[list[str]]:
    """The cells of every table row that is neither head nor rule."""
    found = []
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if not line.startswith("|") or set(line) <= set("|- "):
            continue
        if index + 1 < len(lines) and lines[index + 1].startswith("|--"):
            continue
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def literal_documents() -> list[dict[str, Any]]:
    """Every object in every json block; a block may hold several."""
    found: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    for block in re.findall(r"```json\n(.*?)```", DOC, re.DOTALL):
        rest = block.strip()
        while rest:
            one, end = decoder.raw_decode(rest)
            found.append(one)
            rest = rest[end:].strip()
    return found


def test_every_literal_frame_is_one_and_every_type_has_one() -> None:
    shown = set()
    for one in literal_documents():
        kind = one.get("t")
        if kind is None:
            assert document(split_state(json.dumps(one))) == one, "a state that does not read back"
            continue
        shown.add(kind)
        if kind in CLIENT_FRAME_TYPES:
            parsed = parse_client_frame(one)
            if isinstance(parsed, frames.Frame):
                assert set(one) <= set(type(parsed).model_fields), f"{kind}: a field that is none"
            else:
                assert_update_fields(one)
        else:
            server = parse_server_frame(one)
            assert server.model_dump(exclude_unset=True) == one, f"{kind}: a field that is none"
    assert shown == CLIENT_FRAME_TYPES | SERVER_FRAME_TYPES


def assert_update_fields(frame: dict[str, Any]) -> None:
    for one in frame.get("updates", [frame]):
        assert set(one) <= {"t", "seq", "event", "effects", "durable", "skip"}


def test_literal_error_and_bye_frames_carry_the_name_of_their_code() -> None:
    for one in literal_documents():
        if one.get("t") == "error":
            assert one["name"] in {code.name for code in ERRORS if code == one["code"]}
        if one.get("t") == "bye":
            assert one["name"] in {code.name for code in CLOSES if code == one["code"]}


def test_the_frame_tables_name_every_type_and_every_field() -> None:
    for title, types, models in (
        ("What a client sends", CLIENT_FRAME_TYPES, frames._CLIENT_MODELS),
        ("What a gateway sends", SERVER_FRAME_TYPES, frames._SERVER_MODELS),
    ):
        table = {row[0].strip("`"): row[1] for row in rows(section(title).split("###")[0])}
        assert set(table) == types
        for kind, model in models.items():
            said = set(re.findall(r"`(\w+)\??`", table[kind]))
            assert said == set(model.model_fields) - {"t"}, kind
            optional = {name for name, field in model.model_fields.items() if not field.is_required()} - {"t"}
            # A hello without a token is for a resume only, which the text explains.
            assert set(re.findall(r"`(\w+)\?`", table[kind])) == optional - {"token"}, kind


def test_the_error_table_is_the_one_in_the_code() -> None:
    assert rows(section("Errors")) == [
        [str(int(code)), f"`{code.name}`", info.meaning, info.client] for code, info in ERRORS.items()
    ]


def test_the_close_table_is_the_one_in_the_code() -> None:
    assert rows(section("Closes")) == [
        [str(int(code)), f"`{code.name}`", info.meaning, info.client] for code, info in CLOSES.items()
    ]


def test_the_limits_are_those_in_the_code() -> None:
    said = {row[0].strip("`"): int(row[1].replace(",", "")) for row in rows(section("Limits"))}
    assert said == {name: getattr(limits, name) for name in said}
    assert {name.upper() for name in limits.WELCOME_LIMITS} <= set(said)


def test_known_events_ops_and_names_are_those_in_the_code() -> None:
    events = {row[0].strip("`") for row in rows(section("Events")) if not row[0].endswith("?`")}
    assert events - {"type"} == set(KNOWN_EVENTS)
    tables = rows(section("Effects"))
    assert [row[0].strip("`") for row in tables if row[0].strip("`") in OPS] == list(OPS)
    kinds = {
        name: row[1].split(" ")[0]
        for row in tables
        if row[0].strip("`") not in OPS
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert kinds == KNOWN_KINDS


def test_reasons_queries_and_subprotocols_are_named() -> None:
    welcome_reasons = {row[0].strip("`") for row in rows(section("welcome"))}
    assert welcome_reasons == set(typing.get_args(frames.WelcomeReason))
    for reason in typing.get_args(frames.ResyncReason):
        assert f"`{reason}`" in section("resync")
    for reason in typing.get_args(frames.StreamResetReason):
        assert f"`{reason}`" in section("stream_reset")
    arguments = {field.alias or name for name, field in frames.QueryArgs.model_fields.items()}
    assert {row[0].strip("`") for row in rows(section("query"))} == set(typing.get_args(frames.QueryKind)) | arguments
    assert [row[0].strip("`") for row in rows(section("Connecting"))] == list(SUBPROTOCOLS)


def test_links_inside_the_page_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", DOC, re.MULTILINE)
    } | set(re.findall(r'<a id="([\w-]+)">', DOC))
    for target in re.findall(r"\]\(#([^)]+)\)", DOC):
        assert target in anchors, target
