"""
The frames of the protocol: what a client may send, what a gateway may answer.

Promise: `parse_client_frame` and `parse_server_frame` give a typed frame or raise FrameError, nothing else. Unknown
fields are ignored. Of an update only the envelope is judged here: an update whose `t` and `seq` can be read is never
refused, because what is wrong inside makes it void (effects.py), and an error would block its stream.

The gateway sends plain dicts built by the small functions at the end: building an ack through a model would cost more
than everything else about it. The server models are the reference that tests hold those functions against.

Not here: bytes (codec.py), what an update means (effects.py), and who may send what when (the gateway's sessions).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from protocol.closes import close_name
from protocol.errors import ErrorCode, FrameError
from protocol.limits import (
    BATCH_UPDATES_MAX,
    BOARD_CHARS_MAX,
    CLIENT_CHARS_MAX,
    CONTENT_ID_CHARS_MAX,
    CURSOR_CHARS_MAX,
    DEVICE_CHARS_MAX,
    EVENT_TYPE_CHARS_MAX,
    EXPERIENCE_CHARS_MAX,
    KEY_CHARS_MAX,
    NAME_CHARS_MAX,
    OPS_DEVICE,
    QUERY_ID_CHARS_MAX,
    QUERY_LIMIT_MAX,
    SEQ_MAX,
    SESSION_ID_CHARS_MAX,
    SET_MEMBER_CHARS_MAX,
    TIME_MS_MAX,
    TOKEN_CHARS_MAX,
)

# ── what a client sends ─────────────────────────────────────────────────────────────────────────────────────────────


class Frame(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


# Text that ends up in keys, columns and log lines: no control characters (NUL breaks Postgres, the rest terminals).
_PLAIN_TEXT: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
_COUNTER_PATH: Final = rf"^[a-z][a-z0-9_]{{0,{NAME_CHARS_MAX - 1}}}(\.[^\x00-\x1f\x7f-\x9f]{{1,{KEY_CHARS_MAX}}})?$"

Seq = Annotated[int, Field(ge=1, le=SEQ_MAX)]
Watermark = Annotated[int, Field(ge=0, le=SEQ_MAX)]
TimeMs = Annotated[int, Field(ge=-TIME_MS_MAX, le=TIME_MS_MAX)]
Token = Annotated[str, Field(min_length=1, max_length=TOKEN_CHARS_MAX, pattern=_PLAIN_TEXT)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Resume(Frame):
    session: Annotated[str, Field(min_length=1, max_length=SESSION_ID_CHARS_MAX, pattern=_PLAIN_TEXT)]
    token: Token


class Hello(Frame):
    """
    The first frame. `token` may be missing when `resume` is there: a live session needs no fresh token.

    An experience is part of Redis keys, so its alphabet is small.
    """

    t: Literal["hello"] = "hello"
    token: Token | None = None
    experience: Annotated[
        str, Field(min_length=1, max_length=EXPERIENCE_CHARS_MAX, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    device: Annotated[str, Field(min_length=1, max_length=DEVICE_CHARS_MAX, pattern=_PLAIN_TEXT)]
    at: TimeMs
    made: Watermark
    saved: Watermark
    resume: Resume | None = None
    seen: Watermark | None = None
    client: str | None = None

    @field_validator("device", mode="after")
    @classmethod
    def _device_is_an_installation(cls, value: str) -> str:
        if value == OPS_DEVICE:
            raise ValueError("this name is reserved")
        return value

    @field_validator("client", mode="before")
    @classmethod
    def _client_is_only_a_description(cls, value: object) -> str | None:
        # Nothing depends on it, so nothing about it is worth refusing a player for.
        if not isinstance(value, str):
            return None
        return "".join(char for char in value[:CLIENT_CHARS_MAX] if char.isprintable())


class Update(NamedTuple):
    """
    The envelope of an update. `event` and `effects` are as the codec gave them: `compile_update` judges them.

    A tuple, because this is the hot path: pydantic would cost more than decoding the frame does.
    """

    seq: int
    event: object = None
    effects: object = None
    durable: bool = False
    skip: bool = False


@dataclass(slots=True)
class Batch:
    updates: list[Update]


class QueryArgs(Frame):
    """The arguments of every kind of query; each kind reads its own and ignores the others."""

    waypoint: Annotated[str, Field(min_length=1, max_length=SET_MEMBER_CHARS_MAX)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    cursor: Annotated[str, Field(max_length=CURSOR_CHARS_MAX, pattern=_PLAIN_TEXT)] | None = None
    board: Annotated[str, Field(max_length=BOARD_CHARS_MAX, pattern=_COUNTER_PATH)] | None = None
    type: Annotated[str, Field(min_length=1, max_length=EVENT_TYPE_CHARS_MAX, pattern=_PLAIN_TEXT)] | None = None
    content_id: Annotated[str, Field(min_length=1, max_length=CONTENT_ID_CHARS_MAX, pattern=_PLAIN_TEXT)] | None = None
    since: Annotated[TimeMs | None, Field(alias="from")] = None
    until: Annotated[TimeMs | None, Field(alias="to")] = None

    @field_validator("limit", mode="after")
    @classmethod
    def _limit_is_capped(cls, value: int | None) -> int | None:
        return None if value is None else min(value, QUERY_LIMIT_MAX)


QueryKind = Literal["state", "inventory", "visited", "profile", "history", "leaderboard"]


class Query(Frame):
    t: Literal["query"] = "query"
    id: Annotated[str, Field(min_length=1, max_length=QUERY_ID_CHARS_MAX, pattern=_PLAIN_TEXT)]
    of: QueryKind
    args: QueryArgs = QueryArgs()

    @field_validator("args", mode="before")
    @classmethod
    def _no_args_is_empty_args(cls, value: object) -> object:
        return {} if value is None else value


class Suspend(Frame):
    t: Literal["suspend"] = "suspend"
    expected_s: Seconds


class Refresh(Frame):
    t: Literal["refresh"] = "refresh"
    token: Token


class Ping(Frame):
    t: Literal["ping"] = "ping"
    at: TimeMs
    seen: Watermark | None = None


class Leave(Frame):
    t: Literal["leave"] = "leave"


ClientFrame = Hello | Update | Batch | Query | Suspend | Refresh | Ping | Leave

_CLIENT_MODELS: Final[dict[str, type[Hello | Query | Suspend | Refresh | Ping | Leave]]] = {
    "hello": Hello,
    "query": Query,
    "suspend": Suspend,
    "refresh": Refresh,
    "ping": Ping,
    "leave": Leave,
}
CLIENT_FRAME_TYPES: Final = frozenset({*_CLIENT_MODELS, "update", "batch"})


# A named tuple's own __new__ is Python, and costs three times as much.
_new_tuple = tuple.__new__


def parse_client_frame(raw: Mapping[Any, Any]) -> ClientFrame:
    """
    A decoded map as a typed frame.

    Raises:
        FrameError: 100 without a readable `t`, 101 for a `t` that is not ours, 102 for wrong fields, 105 for a batch of
            too many updates. Nothing else; `seq` and `id` are named when they could be read.
    """
    kind = raw.get("t")
    if kind == "update":
        seq = raw.get("seq")
        if type(seq) is not int or not 1 <= seq <= SEQ_MAX:
            raise FrameError(ErrorCode.INVALID_MESSAGE, "seq: must be an integer from 1 to 2^53")
        read = raw.get
        return _new_tuple(Update, (seq, read("event"), read("effects"), read("durable") is True, read("skip") is True))
    if type(kind) is not str:
        raise FrameError(ErrorCode.BAD_FRAME, "t: must be a string", find_seq(raw), find_id(raw))
    if kind == "batch":
        return _parse_batch(raw)
    model = _CLIENT_MODELS.get(kind)
    if model is None:
        raise FrameError(ErrorCode.UNKNOWN_TYPE, "t: no such frame type", find_seq(raw), find_id(raw))
    try:
        return model.model_validate(raw)
    except ValidationError as refused:
        raise FrameError(ErrorCode.INVALID_MESSAGE, _first_fault(refused), find_seq(raw), find_id(raw)) from None


def _parse_batch(raw: Mapping[Any, Any]) -> Batch:
    """
    A batch is taken or refused as one frame. With one envelope that cannot be read there is no telling which numbers
    the others behind it should have, so nothing of it is used; the client falls back to single updates.
    """
    updates = raw.get("updates")
    if type(updates) is not list or not updates:
        raise FrameError(ErrorCode.INVALID_MESSAGE, "updates: must be an array of 1 to 200 updates")
    if len(updates) > BATCH_UPDATES_MAX:
        raise FrameError(ErrorCode.TOO_LARGE, "updates: must be an array of 1 to 200 updates")
    parsed: list[Update] = []
    for index, one in enumerate(updates):
        seq = one.get("seq") if type(one) is dict else None
        if type(seq) is not int or not 1 <= seq <= SEQ_MAX:
            raise FrameError(ErrorCode.INVALID_MESSAGE, f"updates[{index}].seq: must be an integer from 1 to 2^53")
        parsed.append(
            Update(seq, one.get("event"), one.get("effects"), one.get("durable") is True, one.get("skip") is True)
        )
    return Batch(parsed)


def find_seq(raw: Mapping[Any, Any]) -> int | None:
    """The seq a frame is about, as far as it can be read."""
    seq = raw.get("seq")
    return seq if type(seq) is int and 1 <= seq <= SEQ_MAX else None


def find_id(raw: Mapping[Any, Any]) -> str | None:
    """The query id a frame is about, as far as it can be read."""
    query_id = raw.get("id")
    return query_id if type(query_id) is str and 1 <= len(query_id) <= QUERY_ID_CHARS_MAX else None


def _first_fault(refused: ValidationError) -> str:
    # One fault is enough for whoever has to mend the client, and keeps the answer to a hostile frame short.
    fault = refused.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"]


# ── what a gateway answers ──────────────────────────────────────────────────────────────────────────────────────────

WelcomeReason = Literal["new", "expired", "ended", "unknown", "switched", "lost"]
ResyncReason = Literal["redis_lost", "diverged", "behind"]
StreamResetReason = Literal["server_behind", "device_behind"]


class SessionInfo(Frame):
    id: str
    token: str
    expires_s: Seconds


class SeqInfo(Frame):
    accepted: Watermark
    saved: Watermark


class VoidInfo(Frame):
    seq: Seq
    code: int
    message: str


class Welcome(Frame):
    t: Literal["welcome"] = "welcome"
    session: SessionInfo
    resumed: bool
    reason: str | None = None
    seq: SeqInfo
    void: list[VoidInfo] = []
    state: dict[str, Any]
    version: Watermark
    heartbeat_s: Seconds
    window: Annotated[int, Field(ge=1)]
    limits: dict[str, int]
    server_time: TimeMs


class Ack(Frame):
    t: Literal["ack"] = "ack"
    seq: Watermark
    version: Watermark
    saved: Watermark
    void: list[VoidInfo] = []


class Saved(Frame):
    t: Literal["saved"] = "saved"
    seq: Watermark


class Push(Frame):
    t: Literal["push"] = "push"
    n: Seq
    kind: str
    data: dict[str, Any]
    after: Watermark | None = None


class Resync(Frame):
    t: Literal["resync"] = "resync"
    reason: str
    seq: SeqInfo
    void: list[VoidInfo] = []
    state: dict[str, Any]
    version: Watermark


class StreamReset(Frame):
    t: Literal["stream_reset"] = "stream_reset"
    accepted: Watermark
    reason: str


class Result(Frame):
    t: Literal["result"] = "result"
    id: str
    data: dict[str, Any]


class Error(Frame):
    t: Literal["error"] = "error"
    code: int
    name: str
    message: str
    seq: Seq | None = None
    id: str | None = None
    expected: Seq | None = None
    retry_after_ms: Annotated[int, Field(ge=0)] | None = None


class Drain(Frame):
    t: Literal["drain"] = "drain"
    within_ms: Annotated[int, Field(ge=0)]


class Bye(Frame):
    t: Literal["bye"] = "bye"
    code: int
    name: str
    retry_after_ms: Annotated[int, Field(ge=0)] | None = None
    message: str | None = None


class Pong(Frame):
    t: Literal["pong"] = "pong"
    at: TimeMs
    server_time: TimeMs
    saved: Watermark | None = None


class Left(Frame):
    t: Literal["left"] = "left"
    saved: bool


class Refreshed(Frame):
    t: Literal["refreshed"] = "refreshed"
    expires_s: Seconds


class Suspended(Frame):
    t: Literal["suspended"] = "suspended"
    expires_s: Seconds


ServerFrame = (
    Welcome
    | Ack
    | Saved
    | Push
    | Resync
    | StreamReset
    | Result
    | Error
    | Drain
    | Bye
    | Pong
    | Left
    | Refreshed
    | Suspended
)

_SERVER_MODELS: Final[dict[str, type[ServerFrame]]] = {
    "welcome": Welcome,
    "ack": Ack,
    "saved": Saved,
    "push": Push,
    "resync": Resync,
    "stream_reset": StreamReset,
    "result": Result,
    "error": Error,
    "drain": Drain,
    "bye": Bye,
    "pong": Pong,
    "left": Left,
    "refreshed": Refreshed,
    "suspended": Suspended,
}
SERVER_FRAME_TYPES: Final = frozenset(_SERVER_MODELS)


def parse_server_frame(raw: Mapping[Any, Any]) -> ServerFrame:
    """
    What a gateway sent, as a typed frame.

    Raises:
        FrameError: 100 without a readable `t`, 101 for a `t` that is not ours (a client ignores such a frame: it
            is of a newer gateway), 102 for wrong fields.
    """
    kind = raw.get("t")
    if type(kind) is not str:
        raise FrameError(ErrorCode.BAD_FRAME, "t: must be a string")
    model = _SERVER_MODELS.get(kind)
    if model is None:
        raise FrameError(ErrorCode.UNKNOWN_TYPE, "t: no such frame type")
    try:
        return model.model_validate(raw)
    except ValidationError as refused:
        raise FrameError(ErrorCode.INVALID_MESSAGE, _first_fault(refused), find_seq(raw), find_id(raw)) from None


# ── building what a gateway answers ─────────────────────────────────────────────────────────────────────────────────

Void = tuple[int, int, str]
"""(seq, code, message) of an update that was void."""


def welcome(
    *,
    session_id: str,
    session_token: str,
    expires_s: float,
    resumed: bool,
    reason: WelcomeReason | None,
    accepted: int,
    saved: int,
    voids: Iterable[Void] = (),
    state: dict[str, Any],
    version: int,
    heartbeat_s: float,
    window: int,
    limits: Mapping[str, int],
    server_time: int,
) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "t": "welcome",
        "session": {"id": session_id, "token": session_token, "expires_s": whole_s(expires_s)},
        "resumed": resumed,
        "seq": {"accepted": accepted, "saved": saved},
        "state": state,
        "version": version,
        "heartbeat_s": whole_s(heartbeat_s),
        "window": window,
        "limits": dict(limits),
        "server_time": server_time,
    }
    if reason is not None:
        frame["reason"] = reason
    return _with_voids(frame, voids)


def ack(seq: int, version: int, saved: int, voids: Iterable[Void] = ()) -> dict[str, Any]:
    frame: dict[str, Any] = {"t": "ack", "seq": seq, "version": version, "saved": saved}
    return _with_voids(frame, voids) if voids else frame


def saved(seq: int) -> dict[str, Any]:
    return {"t": "saved", "seq": seq}


def push(n: int, kind: str, data: dict[str, Any], after: int | None = None) -> dict[str, Any]:
    frame: dict[str, Any] = {"t": "push", "n": n, "kind": kind, "data": data}
    if after is not None:
        frame["after"] = after
    return frame


def resync(
    reason: ResyncReason,
    accepted: int,
    saved: int,
    state: dict[str, Any],
    version: int,
    voids: Iterable[Void] = (),
) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "t": "resync",
        "reason": reason,
        "seq": {"accepted": accepted, "saved": saved},
        "state": state,
        "version": version,
    }
    return _with_voids(frame, voids)


def stream_reset(accepted: int, reason: StreamResetReason) -> dict[str, Any]:
    return {"t": "stream_reset", "accepted": accepted, "reason": reason}


def result(id: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"t": "result", "id": id, "data": data}


def error(
    code: ErrorCode,
    message: str,
    *,
    seq: int | None = None,
    id: str | None = None,
    expected: int | None = None,
    retry_after_ms: int | None = None,
) -> dict[str, Any]:
    frame: dict[str, Any] = {"t": "error", "code": int(code), "name": code.name, "message": message}
    if seq is not None:
        frame["seq"] = seq
    if id is not None:
        frame["id"] = id
    if expected is not None:
        frame["expected"] = expected
    if retry_after_ms is not None:
        frame["retry_after_ms"] = retry_after_ms
    return frame


def drain(within_ms: int) -> dict[str, Any]:
    return {"t": "drain", "within_ms": within_ms}


def bye(code: int, retry_after_ms: int | None = None, message: str = "") -> dict[str, Any]:
    frame: dict[str, Any] = {"t": "bye", "code": int(code), "name": close_name(code)}
    if retry_after_ms is not None:
        frame["retry_after_ms"] = retry_after_ms
    if message:
        frame["message"] = message
    return frame


def pong(at: int, server_time: int, saved: int | None = None) -> dict[str, Any]:
    frame: dict[str, Any] = {"t": "pong", "at": at, "server_time": server_time}
    if saved is not None:
        frame["saved"] = saved
    return frame


def left(saved: bool) -> dict[str, Any]:
    return {"t": "left", "saved": saved}


def refreshed(expires_s: float) -> dict[str, Any]:
    return {"t": "refreshed", "expires_s": whole_s(expires_s)}


def suspended(expires_s: float) -> dict[str, Any]:
    return {"t": "suspended", "expires_s": whole_s(expires_s)}


def whole_s(seconds: float) -> int | float:
    """Seconds as a client likes to read them: whole ones without a fraction, others to the millisecond."""
    return round(seconds) if seconds == round(seconds) or seconds > 60 else round(seconds, 3)


def _with_voids(frame: dict[str, Any], voids: Iterable[Void]) -> dict[str, Any]:
    listed = [{"seq": seq, "code": int(code), "message": message} for seq, code, message in voids]
    if listed:
        frame["void"] = listed
    return frame
