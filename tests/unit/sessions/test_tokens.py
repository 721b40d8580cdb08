"""Players' tokens and resume tokens: what counts, and that nothing else does."""

from __future__ import annotations

import base64
import json
import time
import uuid

import jwt
import pytest

from gateway.sessions.tokens import Claims, ResumeToken, TokenRefused, Tokens, make_token

SECRET = b"0123456789abcdef0123456789abcdef"
USER = str(uuid.uuid4())
TOKENS = Tokens(SECRET)


def test_a_good_token_says_who_and_what_for() -> None:
    claims = TOKENS.check(make_token(SECRET, USER, 60, experiences=["a", "b"]))
    assert claims.user_id == USER and claims.experiences == ("a", "b")
    assert claims.allows("a") and not claims.allows("c")
    assert claims.expires_at == pytest.approx(time.time() + 60, abs=2)
    assert claims.issued_at == pytest.approx(time.time(), abs=2)
    assert TOKENS.check(make_token(SECRET, USER, 60)).allows("anything")


def test_a_user_id_has_one_spelling() -> None:
    assert TOKENS.check(make_token(SECRET, USER.upper(), 60)).user_id == USER
    for other in (USER.replace("-", ""), "{" + USER + "}", f"urn:uuid:{USER}", "bob", "", 5, None):
        with pytest.raises(TokenRefused):
            TOKENS.check(make_token(SECRET, USER, 60, sub=other))


def test_every_changed_letter_of_a_token_is_noticed() -> None:
    good = make_token(SECRET, USER, 60)
    for index in range(len(good)):
        for letter in "A_":
            changed = good[:index] + letter + good[index + 1 :]
            # The last letter of each part carries bits that decode to nothing: the same token in another spelling.
            if changed == good or _decoded(changed) == _decoded(good):
                continue
            with pytest.raises(TokenRefused):
                TOKENS.check(changed)


def _decoded(token: str) -> list[bytes]:
    try:
        return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")]
    except ValueError:
        return []


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 10**18},
        {"exp": 253_402_300_800},
        {"exp": "soon"},
        {"exp": None},
        {"iat": "now"},
        {"iat": 10**10},
        {"nbf": 10**10},
        {"experiences": "all"},
        {"experiences": [1]},
        {"experiences": {}},
    ],
)
def test_strange_claims_are_refused(claims: dict[str, object]) -> None:
    with pytest.raises(TokenRefused) as refused:
        TOKENS.check(make_token(SECRET, USER, 60, **claims))
    assert not refused.value.is_expired


def test_the_algorithm_is_not_the_token_s_choice() -> None:
    now = int(time.time())
    payload = {"sub": USER, "iat": now, "exp": now + 60}
    for algorithm in ("HS384", "HS512"):
        with pytest.raises(TokenRefused):
            TOKENS.check(jwt.encode(payload, SECRET * 2, algorithm=algorithm))
    with pytest.raises(TokenRefused):
        TOKENS.check(jwt.encode(payload, None, algorithm="none"))
    head = base64.urlsafe_b64encode(json.dumps({"alg": "None"}).encode()).rstrip(b"=").decode()
    with pytest.raises(TokenRefused):
        TOKENS.check(f"{head}.{make_token(SECRET, USER, 60).split('.')[1]}.")
    with pytest.raises(TokenRefused):
        TOKENS.check(jwt.encode(payload, SECRET, algorithm="HS256", headers={"typ": "at+jwt"}))


def test_expiry_has_a_small_leeway_and_is_told_apart() -> None:
    TOKENS.check(make_token(SECRET, USER, -5))
    with pytest.raises(TokenRefused) as refused:
        TOKENS.check(make_token(SECRET, USER, -60))
    assert refused.value.is_expired


def test_issuer_and_audience_count_where_they_are_set() -> None:
    named = Tokens(SECRET, issuer="us", audience="players")
    assert named.check(make_token(SECRET, USER, 60, iss="us", aud=["players", "x"])).user_id == USER
    for claims in ({}, {"iss": "us"}, {"iss": "them", "aud": "players"}, {"iss": "us", "aud": "others"}):
        with pytest.raises(TokenRefused):
            named.check(make_token(SECRET, USER, 60, **claims))
    assert TOKENS.check(make_token(SECRET, USER, 60, iss="them", aud="others")).user_id == USER


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        Tokens(b"short")


def test_a_resume_token_comes_back_whole_and_only_from_us() -> None:
    resume = ResumeToken(str(uuid.uuid4()), USER, "phöne 1", 1_795_360_000_123)
    text = TOKENS.make_resume(resume)
    assert TOKENS.find_resume(text) == resume
    assert Tokens(b"another secret that is long enough!").find_resume(text) is None
    for index in range(len(text) - 1):
        changed = text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]
        assert TOKENS.find_resume(changed) is None, index
    for garbage in ("", "r1.", "r1.AAAA", "r2" + text[2:], text + "!", "é", "r1.é", make_token(SECRET, USER, 60)):
        assert TOKENS.find_resume(garbage) is None
    with pytest.raises(TokenRefused):
        TOKENS.check(text)


def test_what_a_session_remembers_of_a_token() -> None:
    claims = Claims(USER, 5.0, ("a",))
    again = Claims.from_json(USER, claims.to_json())
    assert again.experiences == ("a",) and again.expires_at is None
    assert Claims.from_json(USER, Claims(USER, None, None).to_json()).allows("x")
    for broken in ("", "[]", "{", "5"):
        assert not Claims.from_json(USER, broken).allows("x")
