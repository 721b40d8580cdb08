"""
Hello: who is there, which session is theirs, is the progress hot, and do both sides agree about the stream.

Promise: a welcome is sent only for a connection number that Redis gave out, and shows the progress as it was in that
same instant. Everything before it may be repeated: when something changed under us we look again, a bounded number of
times and seconds. Of two hellos of one player the higher number stays, on this node at once, elsewhere by its fence.

Not here: what happens when the copy goes away later (recovery.py).
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gateway.sessions import pushes
from gateway.sessions.connection import Connection, Phase
from gateway.sessions.farewell import banned
from gateway.sessions.faults import Goodbye, retry_after_ms
from gateway.sessions.rules import OPEN_ATTEMPTS_MAX, OPEN_DEADLINE_S
from gateway.sessions.session_entries import end_entry, start_entry
from gateway.sessions.tokens import Claims, ResumeToken, TokenRefused
from gateway.telemetry.logs import get_logger
from persistence.cold.shapes import ColdProgress
from persistence.cold.store import TOMBSTONE_LEEWAY_S
from persistence.errors import PlayerErased
from persistence.hot.shapes import EndSession, HotProgress, HotSession, OpenSession, Outcome
from persistence.progress_key import ProgressKey
from protocol import frames
from protocol.closes import CloseCode
from protocol.frames import Hello, StreamResetReason, WelcomeReason
from protocol.limits import WELCOME_LIMITS
from protocol.state import document

if TYPE_CHECKING:
    from gateway.sessions.node import Node

log = get_logger("sessions")


@dataclass(slots=True)
class Who:
    """Who said hello. Without `claims` only the session that `resume` names may be taken up, and `refusal` says why."""

    user_id: str
    claims: Claims | None
    resume: ResumeToken | None
    refusal: TokenRefused


_NOT_REFUSED = TokenRefused("not needed")


class _Said(NamedTuple):
    """A hello as long as it waits: a frame is five times as big. Its tokens are gone when they were checked."""

    experience: str
    device: str
    at: int
    made: int
    saved: int
    seen: int | None
    is_resuming: bool
    token: str | None
    session: str
    resume_token: str


async def open_connection(connection: Connection, hello: Hello) -> None:
    """
    From hello to welcome, stream_reset or goodbye. Cancelling is safe: a session that was opened lives on in Redis and
    is resumed or expires.

    Raises:
        Goodbye, TokenRefused, PlayerErased, StoreUnavailable, StoreFull, TimeoutError: why this connection cannot be
        welcomed.
    """
    async with asyncio.timeout(OPEN_DEADLINE_S) as deadline:
        due = deadline.when()
        assert due is not None
        await _Opening(connection, hello, due).run()


def _authenticate(node: Node, hello: _Said) -> Who:
    """Raises TokenRefused when neither token counts."""
    resume = node.tokens.find_resume(hello.resume_token) if hello.is_resuming else None
    if resume is not None and resume.session_id != hello.session.lower():
        resume = None
    if hello.token is None:
        refusal = TokenRefused("no token")
    else:
        try:
            claims = node.tokens.check(hello.token)
        except TokenRefused as refused:
            refusal = refused
        else:
            if resume is not None and resume.user_id != claims.user_id:
                resume = None
            return Who(claims.user_id, claims, resume, _NOT_REFUSED)
    if resume is None:
        raise refusal
    return Who(resume.user_id, None, resume, refusal)


class _Opening:
    """One hello on its way. The fields are what earlier looks have decided; they outlast the flow (hello_line.py)."""

    __slots__ = (
        "arrived_ms",
        "attempts",
        "connection",
        "due",
        "hello",
        "is_counted",
        "is_hydrated",
        "is_seen",
        "key",
        "must_make",
        "node",
        "own_number",
        "own_session_id",
        "session",
        "was_elsewhere",
        "who",
    )

    who: Who
    key: ProgressKey

    def __init__(self, connection: Connection, hello: Hello, due: float) -> None:
        self.connection = connection
        self.node = connection.node
        self.due = due
        resume = hello.resume
        session, resume_token = (resume.session, resume.token) if resume is not None else ("", "")
        self.hello = _Said(
            *(hello.experience, hello.device, hello.at, hello.made, hello.saved, hello.seen),
            *(resume is not None, hello.token, session, resume_token),
        )
        self.arrived_ms = self.node.now_ms()
        self.own_session_id = ""
        self.own_number = 0
        self.was_elsewhere = False
        self.is_hydrated = False
        self.must_make = False  # Postgres has no rows of this progress, either
        self.attempts = 0
        self.session: HotSession | None = None  # as it was seen
        self.is_seen = False
        self.is_counted = False

    def _identify(self) -> None:
        """Inside the gate: checking the tokens of a crowd all at once would keep the loop from those who play."""
        connection = self.connection
        self.who = _authenticate(self.node, self.hello)
        self.hello = self.hello._replace(token=None, session="", resume_token="")
        self._check_allowed(self.who.claims)
        self.key = ProgressKey(self.who.user_id, self.hello.experience)
        # Ours already: after a stream_reset, or when a look came back to a session that this hello has opened.
        self.own_session_id = connection.session_id if connection.key == self.key else ""
        self.own_number = connection.number if self.own_session_id else 0

    async def run(self) -> None:
        self._refuse_everybody()
        if self.node.is_full:
            raise Goodbye(CloseCode.OVERLOADED, retry_after_ms())
        await self._look()

    async def go_on(self) -> None:
        """In a flow of its own: it is the turn of a hello that has waited in line."""
        async with asyncio.timeout_at(self.due):
            self._refuse_everybody()  # since it stands in line, perhaps
            if not self.attempts or await self._bring():
                await self._look()

    def _refuse_everybody(self) -> None:
        """Raises Goodbye while nobody is let in."""
        if self.node.is_draining:
            raise Goodbye(CloseCode.DRAINING, retry_after_ms())
        self.node.watch.refuse_in_maintenance()

    async def _look(self) -> None:
        node, connection = self.node, self.connection
        while self.attempts < OPEN_ATTEMPTS_MAX:
            is_first = self.attempts == 0
            if is_first and not node.looks.enter(self):
                return  # this flow ends, another goes on
            self.attempts += 1
            # Redis alone is asked inside the gate: a slow Postgres must not keep warm players out.
            async with node.openings.hold(is_live=False):
                if is_first:
                    self._identify()
                takes = is_first and self._knows_its_session()
                if not takes and not self.is_seen:
                    self.session = await node.hot.find_session(self.who.user_id)
                session = self.session
                claims = self._claims_for(session)
                if session is not None and session.experience != self.key.experience:
                    outcome = await self._end_elsewhere(session)
                else:
                    request = self._take_request(claims) if takes else self._request(session, claims)
                    opened = await node.hot.open_session(request)
                    outcome = opened.outcome
                    if not self.is_counted and not (takes and outcome is Outcome.CHANGED):
                        self.is_counted = True
                        node.tally.hot_lookups["hello"] += 1
                        node.tally.hot_hits["hello"] += outcome is not Outcome.MISSING
            node.looks.leave()
            if takes and outcome is Outcome.CHANGED:
                self.session, self.is_seen = opened.session, True
                continue
            if session is not None and session.experience != self.key.experience:
                if outcome is Outcome.MISSING:
                    await self._hydrate_elsewhere(session)
                self.is_seen = False  # what was seen has been ended
                continue
            # A hydrate changes nothing about the session; if somebody else does meanwhile the answer is CHANGED.
            self.is_seen = not takes and outcome in (Outcome.MISSING, Outcome.NO_DEVICE)
            if outcome is Outcome.MISSING:
                if not await self._bring():
                    return
            elif outcome is Outcome.NO_DEVICE:
                await self._load_device()
            elif outcome is Outcome.ERASED:
                raise PlayerErased
            elif outcome is Outcome.BANNED:
                assert opened.ban is not None
                raise banned(opened.ban, node.now_ms())
            elif outcome is Outcome.OK:
                assert opened.progress is not None
                self.own_session_id, self.own_number = request.session_id, opened.connection
                connection.session_id, connection.number = request.session_id, opened.connection
                connection.started_ms = opened.started_ms
                if not await self._agree(opened.progress):
                    continue
                if connection.phase is Phase.OPENING:
                    connection.claims = request.claims
                    self._welcome(opened.progress, claims)
                    seen = self.hello.seen if connection.welcome_as[0] else 0
                    pushes.begin(connection, opened.pushed, opened.push_offset, seen)
                return
            # CHANGED: somebody was quicker; look again.
        raise Goodbye(CloseCode.UNAVAILABLE, retry_after_ms())

    # ── the looks ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_allowed(self, claims: Claims | None) -> None:
        if claims is not None and not claims.allows(self.hello.experience):
            # A client cannot mend this, but a token with the right experiences can.
            raise Goodbye(CloseCode.UNAUTHENTICATED)

    def _claims_for(self, session: HotSession | None) -> Claims:
        """Those of the token, else those the session remembers: a resume is valid without a token while it lives."""
        if self.who.claims is not None:
            return self.who.claims
        resume = self.who.resume
        assert resume is not None
        if session is None or session.id not in (resume.session_id, self.own_session_id):
            raise self.who.refusal
        claims = Claims.from_json(self.who.user_id, session.claims)
        self._check_allowed(claims)
        return claims

    def _knows_its_session(self) -> bool:
        """Most that come back find their session as they left it: worth asking for without a look at it first."""
        who = self.who
        return who.claims is not None and who.resume is not None and not self.own_session_id

    def _take_request(self, claims: Claims) -> OpenSession:
        """Resume the session that the client names, if it is there. With a token, which says what is allowed."""
        assert self.who.resume is not None
        self.connection.welcome_as = (True, None)
        return OpenSession(
            key=self.key,
            device=self.hello.device,
            node=self.node.name,
            session_id=self.who.resume.session_id,
            started_ms=0,
            claims=claims.to_json(),
            connection_min=self._connection_min(),
            seen=None,
            start_entry=None,
            end_entry=None,
            token_ms=self._token_ms(),
            takes=True,
        )

    def _request(self, session: HotSession | None, claims: Claims) -> OpenSession:
        """Resume the session that is there, if it is this client's; else start one in its place."""
        node, hello, resume = self.node, self.hello, self.who.resume
        is_own = session is not None and session.id == self.own_session_id
        is_resumed = session is not None and resume is not None and session.id == resume.session_id
        if not self.own_session_id or not is_own:
            self.connection.welcome_as = (is_resumed, None if is_resumed else self._reason(session))
        continues = is_own or is_resumed
        if not continues and self.node.health.is_redis_high:
            # What is free belongs to the players that are in: their steps must find room until it is drained.
            raise Goodbye(CloseCode.OVERLOADED, retry_after_ms())
        now_ms = node.now_ms()
        if continues:
            assert session is not None
            session_id, started_ms = session.id, session.started_ms
        else:
            session_id, started_ms = str(uuid.uuid4()), now_ms
        started = ended = None
        if not continues or self.is_hydrated:
            # After a hydrate the start may have gone with the copy that was there before: say it again.
            started = start_entry(node.entry_ids, session_id, self.key, hello.device, started_ms)
        if session is not None and not continues:
            ended = end_entry(node.entry_ids, session, now_ms, "replaced")
        return OpenSession(
            key=self.key,
            device=hello.device,
            node=node.name,
            session_id=session_id,
            started_ms=started_ms,
            claims=claims.to_json() if self.who.claims is not None or session is None else session.claims,
            connection_min=self._connection_min(),
            seen=(session.id, session.connection) if session is not None else None,
            start_entry=started,
            end_entry=ended,
            token_ms=self._token_ms(),
        )

    def _connection_min(self) -> int:
        """Above every number that is known here: a Redis that forgot may have a clock that is behind the last one's."""
        resume, here = self.who.resume, self.node.players.get(self.who.user_id)
        return max(0 if resume is None else resume.connection + 1, 0 if here is None else here.number + 1)

    def _token_ms(self) -> int | None:
        """When the token was issued at the latest: it tells whole seconds."""
        claims = self.who.claims
        if claims is None or claims.issued_at is None:
            return None
        return round((claims.issued_at + TOMBSTONE_LEEWAY_S) * 1000)

    def _reason(self, session: HotSession | None) -> WelcomeReason:
        """Why the session that the client wanted is not the one it gets."""
        resume = self.who.resume
        if not self.hello.is_resuming:
            return "new"
        if resume is None:
            return "unknown"
        if self.was_elsewhere:
            return "switched"
        if session is not None:
            return "ended"
        # The number of a connection is about the time it was made, and no session lives longer unused.
        if self.arrived_ms - resume.connection >= self.node.rules.session_expiry_s * 1000:
            return "expired"
        return "lost" if self.is_hydrated else "ended"

    async def _end_elsewhere(self, session: HotSession, *, is_rowless: bool = False) -> Outcome:
        """One session is in one experience: end the other one."""
        resume = self.who.resume
        self.was_elsewhere = resume is not None and session.id == resume.session_id
        ended = await self.node.hot.end_session(
            EndSession(
                key=ProgressKey(session.user_id, session.experience),
                session_id=session.id,
                entry=end_entry(self.node.entry_ids, session, self.node.now_ms(), "switched"),
                is_rowless=is_rowless,
            )
        )
        return ended.outcome

    async def _hydrate_elsewhere(self, session: HotSession) -> None:
        key = ProgressKey(session.user_id, session.experience)
        if await self.node.hydrator.hydrate(key, session.device) is None:
            # A session without a progress: Postgres lost it. Nothing can be written about its end, but it must not keep
            # its player out for ever.
            log.error("session_without_progress", progress=key.member, session=session.id)
            await self._end_elsewhere(session, is_rowless=True)

    async def _bring(self) -> bool:
        """
        Bring the progress into Redis, and make it first if it is new. False: this flow must end, another goes on.
        Those who read and those who make do not wait for each other, because a read is many players' and quick.
        """
        node = self.node
        if not self.must_make:
            if not node.readings.enter(self):
                return False
            self.must_make = not await self._hydrate()
            node.readings.leave()
        if self.must_make:
            if not node.makings.enter(self):
                return False
            claims = self.who.claims
            assert claims is not None
            cold = await node.hydrator.make(self.key, self.hello.device, claims.issued_at)
            node.makings.leave()
            self.must_make = False
            if cold is not None:
                self._note_hydrated(cold)
        return True

    async def _hydrate(self) -> bool:
        """False: there is nothing, and a token that allows to make it."""
        claims = self.who.claims
        cold = await self.node.hydrator.hydrate(
            self.key,
            self.hello.device,
            creates=claims is not None,
            token_issued_at=claims.issued_at if claims is not None else None,
        )
        if cold is not None:
            self._note_hydrated(cold)
        elif claims is None:
            raise self.who.refusal
        return cold is not None

    def _note_hydrated(self, cold: ColdProgress) -> None:
        if cold.ban is not None:
            # Redis does not know: it has forgotten. The watch brings all bans back; this player's is known now.
            raise banned(cold.ban, self.node.now_ms())
        self.is_hydrated = True

    async def _load_device(self) -> None:
        """The copy does not know this stream; absent never means 0, and a device from before an erase never returns."""
        claims = self.who.claims
        if claims is not None:
            await self.node.hydrator.check_not_erased(self.key.user_id, self.hello.device, claims.issued_at)
        await self.node.hydrator.install_device(self.key, self.hello.device)

    # ── agreeing about the stream ───────────────────────────────────────────────────────────────────────────────────

    async def _agree(self, progress: HotProgress) -> bool:
        """
        Whether both sides can go on in this stream. False: look again, the copy was rebuilt. A stream that cannot go on
        is reset, which ends this opening.

        Raises:
            Goodbye: never for a disagreement; a client is told what to do instead.
        """
        accepted = progress.accepted[self.hello.device]
        if self.hello.saved > accepted:
            # Somebody forgot. Only a read of Postgres that begins now can say who: an older one may be behind it.
            known, _ = await self.node.hydrator.find_device_seq(progress.row_id, self.hello.device)
            if known >= self.hello.saved:
                await self._hydrate()
                return False
            self._reset_stream(accepted, "server_behind", known)
        elif accepted > self.hello.made:
            self._reset_stream(accepted, "device_behind", accepted)
        return True

    def _reset_stream(self, accepted: int, reason: StreamResetReason, known: int) -> None:
        connection = self.connection
        if connection.phase is not Phase.OPENING:
            return
        self.node.tally.stream_resets += 1
        log.error(
            "stream_reset",
            progress=self.key.member,
            reason=reason,
            accepted=accepted,
            known=known,
            made=self.hello.made,
            saved=self.hello.saved,
        )
        connection.key = self.key
        connection.phase = Phase.WAITING
        connection.task = None
        connection.hello_due = self.node.clock() + self.node.rules.hello_timeout_s
        connection.wire.schedule(connection.hello_due)
        connection.send(frames.stream_reset(accepted, reason))

    def _welcome(self, progress: HotProgress, claims: Claims) -> None:
        """No await from here on: what Redis answered and what the client is told are one instant for this node."""
        node, connection, hello = self.node, self.connection, self.hello
        device = hello.device
        now, now_ms = node.clock(), node.now_ms()
        connection.key = self.key
        connection.device = device
        connection.hold(progress.copy)
        connection.version = progress.version
        connection.told = accepted = progress.accepted[device]
        connection.saved_told = saved = progress.saved.get(device, 0)
        connection.expected = accepted + 1
        connection.is_held = False
        connection.clock_offset_ms = self.arrived_ms - hello.at
        if claims.expires_at is not None:
            connection.token_due = now + max(0.0, claims.expires_at - now_ms / 1000)
        node.register(connection)
        connection.phase = Phase.PLAYING
        connection.task = None
        connection.heard_at = now
        connection.schedule_look(now)
        resumed, reason = connection.welcome_as
        node.tally.resumes += resumed
        connection.send(
            frames.welcome(
                session_id=connection.session_id,
                session_token=node.tokens.make_resume(
                    ResumeToken(connection.session_id, self.key.user_id, device, connection.number)
                ),
                expires_s=node.rules.session_expiry_s,
                resumed=resumed,
                reason=reason,
                accepted=accepted,
                saved=saved,
                voids=progress.voids.get(device, ()),
                state=document(progress.fields),
                version=progress.version,
                heartbeat_s=node.rules.heartbeat_s,
                window=node.rules.window,
                limits=WELCOME_LIMITS,
                server_time=now_ms,
            )
        )
