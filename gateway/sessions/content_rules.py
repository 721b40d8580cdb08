"""
What a definition says about events: whether their content is known, and how precise their location may be.

Promise: the precise location of an event goes no further than here when its experience says so: neither an entry nor
anything made of it ever holds it. What is reported is bounded, whatever players send: a number for each experience,
and one log line for each of the first unknown ids.

On the hot path: one look into a set for each event, and the rounding where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Tally
from protocol.errors import ErrorCode, VoidUpdate
from protocol.events import Event
from protocol.experience import ExperienceDefinition, round_location

LOGGED_IDS_MAX = 50
"""Of each experience and process. A client that makes up ids must not fill a disk."""

log = get_logger("content")


class ContentRules:
    """The rules of one experience in one process."""

    __slots__ = ("_experience", "_is_refused", "_is_rounded", "_known", "_logged", "_privacy", "_tally")

    def __init__(self, definition: ExperienceDefinition, tally: Tally) -> None:
        self._experience = definition.experience_id
        self._known = {} if definition.unknown_content == "ignore" else definition.known_content()
        self._is_refused = definition.unknown_content == "refuse"
        self._privacy = definition.privacy
        self._is_rounded = definition.privacy.changes_locations
        self._tally = tally
        self._logged: set[tuple[str, str]] = set()

    def take(self, event: Event) -> None:
        """
        Look at an event before anything is made of it; its location is replaced by what may be kept of it.

        Raises:
            VoidUpdate: 106 for content that the experience does not have, where that is refused.
        """
        known = self._known.get(event.type)
        if known is not None and event.content_id not in known:
            self._report(event)
        if self._is_rounded and (event.lat is not None or event.lng is not None):
            event.lat, event.lng = round_location(self._privacy, event.lat, event.lng)

    def _report(self, event: Event) -> None:
        self._tally.unknown_content[self._experience] += 1
        seen = (event.type, event.content_id or "")
        if len(self._logged) < LOGGED_IDS_MAX and seen not in self._logged:
            self._logged.add(seen)
            log.warning(
                "unknown_content",
                experience=self._experience,
                event_type=event.type,
                content_id=event.content_id,
                is_refused=self._is_refused,
                is_last_line=len(self._logged) == LOGGED_IDS_MAX,
            )
        if self._is_refused:
            raise VoidUpdate(ErrorCode.INVALID_EFFECT, "event.content_id: the experience has no such content")


def make_content_rules(definitions: Mapping[str, ExperienceDefinition], tally: Tally) -> dict[str, ContentRules]:
    """By experience id; an experience whose definition asks for nothing here is left out, and costs nothing."""
    return {
        name: ContentRules(definition, tally)
        for name, definition in definitions.items()
        if definition.privacy.changes_locations
        or (definition.unknown_content != "ignore" and definition.known_content())
    }
