"""What names a progress everywhere: one player in one experience."""

from __future__ import annotations

from typing import NamedTuple


class ProgressKey(NamedTuple):
    """`user_id` is the canonical lower-case text of a UUID, `experience` at most 100 characters without a space."""

    user_id: str
    experience: str

    @property
    def member(self) -> str:
        """This progress as a member of the `dirty` set. A UUID has no slash, so the first one divides."""
        return f"{self.user_id}/{self.experience}"

    @classmethod
    def of_member(cls, member: str) -> ProgressKey:
        user_id, _, experience = member.partition("/")
        return cls(user_id, experience)
