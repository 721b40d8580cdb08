"""
What can go wrong between us and the stores, split by whose fault it is. Callers decide what a client is told.
"""

from __future__ import annotations

from persistence.progress_key import ProgressKey


class PersistenceError(Exception):
    """Base of everything this package raises on purpose."""


class StoreUnavailable(PersistenceError):
    """
    A store did not answer, or not in time. Whether the call took effect is unknown, so whatever is tried again
    must be repeatable. `store` is "redis" or "postgres".
    """

    def __init__(self, store: str, operation: str, cause: object) -> None:
        super().__init__(f"{store} did not answer {operation}: {cause}")
        self.store = store
        self.operation = operation


class ProgressMissing(PersistenceError):
    """There is no such progress: this player has never said hello in this experience."""

    def __init__(self, key: ProgressKey) -> None:
        super().__init__(f"player {key.user_id} has no progress in {key.experience}")
        self.key = key


class ActionsWaiting(PersistenceError):
    """Too many actions on this progress were asked for and are not saved yet: later."""

    def __init__(self) -> None:
        super().__init__("too many actions on this progress wait to be saved")


class UndoneAlready(PersistenceError):
    """This action was taken back already, or is about to be."""

    def __init__(self) -> None:
        super().__init__("this action was taken back already")


class StoreFull(PersistenceError):
    """Redis refuses writes because its memory is full; it heals when the flusher has drained it."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"redis is full: {operation} was refused")
        self.operation = operation


class StoreUnfit(PersistenceError):
    """
    A store answers but cannot be used: too old, evicting, volatile, read-only, wrong schema. `advice` says what to
    do.
    """

    def __init__(self, store: str, reason: str, advice: str) -> None:
        super().__init__(f"{store}: {reason}; {advice}")
        self.store = store
        self.reason = reason
        self.advice = advice


class PlayerErased(PersistenceError):
    """This player was erased, and what they came with (a token from before, a device they had) is refused for ever."""

    def __init__(self) -> None:
        super().__init__("the player was erased")


class PlayerUnknown(PersistenceError):
    """Nothing is stored about this player."""

    def __init__(self, user_id: str) -> None:
        super().__init__(f"nothing is known of the player {user_id}")
