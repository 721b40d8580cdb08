"""Every kind of step that the protocol knows, at an even rate: the load that is easiest to compare."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.scenario import Doing, Pause, PlayerView, Scenario
from loadtest.storyline import Story

RATE_DEFAULT_PER_S = 2.0


class EvenStory(Scenario):
    """A story of every kind of step, wrong ones among them, at exactly --rate."""

    def play(self, player: PlayerView) -> Iterator[Doing]:
        rate_per_s = player.rate_per_s or RATE_DEFAULT_PER_S
        story = Story(player.experience, player.random)
        yield Pause(max(0.0, -player.now_s) + player.random.random() / rate_per_s)
        gap = Pause(1 / rate_per_s)
        for _ in range(round(player.seconds * rate_per_s)):
            yield story.next_step()
            yield gap
