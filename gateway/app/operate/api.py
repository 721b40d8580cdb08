"""
The live-ops API as commands ask it: where it is, with which token, and what an answer that refuses means.

By default it is that of the `dev` of the data folder, with the token that its ops process leaves there for its owner.
Promise: every request has a deadline, and what goes wrong is one line that says what to do next.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.app.errors import CommandError, ExitCode, SettingsError
from gateway.app.ops_token import TOKEN_FILE
from gateway.app.ready import find_running, get_running
from gateway.app.settings import Settings
from gateway.app.settings_source import add_setting_flags, load_settings

TIMEOUT_S = 30.0
"""Longer than an action is waited for."""
SILENCE_S = 60.0
"""A live feed says something every quarter of a minute."""
ANSWER_BYTES_MAX = 16 * 1024 * 1024
COPY_BYTES = 64 * 1024
LINE_BYTES_MAX = 4 * 1024 * 1024


class Refused(CommandError):
    """The API said no: not allowed, not possible, not now."""

    exit_code = ExitCode.BAD_VERDICT


class Misused(CommandError):
    """The API does not understand what it was asked for."""

    exit_code = ExitCode.USAGE


class Away(CommandError):
    """There is no API, or it cannot do its work now."""

    exit_code = ExitCode.UNFIT


def add_api_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ops-url", metavar="URL", help="the live-ops API; default: that of the running dev")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with an operator's token")
    add_setting_flags(parser, ["data_dir"])


class Api:
    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token
        # No proxy: this is our own port, usually on loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        given = {name.rstrip("_"): value for name, value in query.items() if value not in (None, "")}
        return self._ask("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path)

    def post(self, path: str, body: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """`key`: what makes it repeatable. An answer that was lost is asked for once more with the same one."""
        headers = {} if key is None else {"Idempotency-Key": key}
        try:
            return self._ask("POST", path, body, headers)
        except Away:
            if key is None:
                raise
            return self._ask("POST", path, body, headers)

    def stream(self, **query: Any) -> Iterator[tuple[str, Any]]:
        """The live feed: (topic, data), until it ends. Raises Away when it breaks."""
        given = {name: value for name, value in query.items() if value}
        request = self._request("GET", f"/api/v1/live?{urllib.parse.urlencode(given)}")
        try:
            with self._opener.open(request, timeout=SILENCE_S) as answer:
                topic = "message"
                while line := answer.readline(LINE_BYTES_MAX):
                    name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                    if name == "event":
                        topic = value.strip()
                    elif name == "data":
                        yield topic, json.loads(value)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, ValueError) as error:
            raise Away(f"the live feed broke off: {error}", "run it again") from None

    def download(self, path: str, fd: int) -> None:
        """An answer of any length into a file. Raises as `get`; what was written then is no whole answer."""
        try:
            answering = self._opener.open(self._request("GET", path), timeout=SILENCE_S)
            with answering as answer, os.fdopen(fd, "wb", closefd=False) as file:
                shutil.copyfileobj(answer, file, COPY_BYTES)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"the answer broke off: {error}", "run it again") from None

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            with self._opener.open(self._request(method, path, body, headers), timeout=TIMEOUT_S) as answer:
                found = json.loads(answer.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, ValueError) as error:
            why = "no answer in time" if isinstance(error, (TimeoutError, socket.timeout)) else str(error)
            raise Away(f"the live-ops API at {self._url} does not answer: {why}", "see wayhold status") from None
        return found if isinstance(found, dict) else {"items": found}

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib.request.Request:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self._token}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        return request


def open_api(args: argparse.Namespace) -> Api:
    """Raises CommandError when there is none, or no token for it."""
    settings = load_settings(args).settings
    url = args.ops_url or get_running(settings.data_dir, None).ops_url
    token_file = args.token_file or settings.data_dir / TOKEN_FILE
    try:
        token = token_file.read_text().strip()
    except OSError as error:
        what = error.strerror or type(error).__name__
        raise SettingsError(
            f"no token in {token_file}: {what}", "give --token-file FILE with a token of yours (an admin makes them)"
        ) from None
    return Api(url, token)


def find_local_api(settings: Settings) -> Api | None:
    """The API of the `dev` that runs on the data folder; None without one, and where stores were named."""
    if settings.redis_url is not None or settings.database_url is not None:
        return None
    running = find_running(settings.data_dir)
    if running is None:
        return None
    try:
        token = (settings.data_dir / TOKEN_FILE).read_text().strip()
    except OSError:
        return None
    return Api(running.ops_url, token)


def make_key() -> str:
    return str(uuid.uuid4())


def _refusal(error: urllib.error.HTTPError) -> CommandError:
    try:
        told = json.loads(error.read(ANSWER_BYTES_MAX))["error"]
        message, following = str(told["message"]), str(told.get("next", ""))
    except (ValueError, KeyError, TypeError, OSError):
        message, following = f"HTTP {error.code}", "is that the ops port of a Wayhold of this version?"
    if error.code >= 500:
        return Away(message, following)
    if error.code in (400, 413, 422):
        return Misused(message, following)
    if error.code == 401:
        return SettingsError(f"the token does not count: {message}", "give --token-file FILE with one that does")
    return Refused(message, following)
