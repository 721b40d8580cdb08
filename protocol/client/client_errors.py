"""Why a client does not do what it was asked for."""

from __future__ import annotations

from protocol.closes import CloseCode


class ClientStopped(Exception):
    """
    The client is closed: by a close code that told it to stay away (`code`), or because it was stopped (None).
    `reason` says more where the code alone would leave its user guessing.
    """

    def __init__(self, code: int | None, reason: str | None = None) -> None:
        self.code = code
        self.reason = reason
        text = "the client is stopped" if code is None else f"the server closed with {_name(code)}"
        super().__init__(text if reason is None else f"{text}: {reason}")


class UpdateRefused(ValueError):
    """This update can never be sent: it was not given a seq. The caller's fault."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"update refused: {reason}")


class QueryRefused(Exception):
    """The server answered a query with an error."""

    def __init__(self, code: int, name: str, message: str) -> None:
        self.code = code
        self.name = name
        self.message = message
        super().__init__(f"query refused: {code} {name}: {message}")


def _name(code: int) -> str:
    try:
        return f"{code} {CloseCode(code).name}"
    except ValueError:
        return str(code)
