"""A run that nobody played: histories, samples and marks as a load test leaves them, and the report of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from loadtest.findings import AuditReport, Finding
from loadtest.history import PlayerHistory, Step
from loadtest.percentiles import Histogram
from loadtest.report_document import make_document
from loadtest.series import make_series

START_MS = 1_790_000_000_000.0


def invent_histories(players: int, seconds: int, *, seed: int = 1, slower_ms: float = 0.0) -> list[PlayerHistory]:
    """One update a second and player; a pause of the gateway in the middle, one player away for a while."""
    rng = random.Random(seed)
    histories = []
    for player in range(players):
        history = PlayerHistory(f"00000000-0000-4000-8000-{player:012}", "wylding-woods")
        history.closes, history.errors = ({1006: 1}, {201: 2}) if player % 10 == 0 else ({}, {})
        history.welcomes = {"resumed": 1} if player % 10 == 0 else {}
        for second in range(seconds):
            due_ms = START_MS + second * 1000 + player * 1000 / players
            step = Step(f"phone-{player}", second + 1, {"type": "note"}, None, due_ms + 0.3, due_ms)
            pause_ms = (
                max(0.0, 2500 - (due_ms - START_MS - seconds * 400))
                if 0 <= due_ms - START_MS - seconds * 400 < 2500
                else 0
            )
            step.accepted_ms = step.made_ms + pause_ms + slower_ms + rng.lognormvariate(1.2, 0.5)
            step.saved_ms = step.accepted_ms + rng.uniform(200, 1200)
            step.is_away = player == 3 and 5 <= second < 9
            history.add_made(step)
            history.offered += 1
        histories.append(history)
    return histories


def write_samples(folder: Path, histories: list[PlayerHistory], seconds: int) -> None:
    """As two processes of players write them."""
    folder.mkdir(exist_ok=True)
    for process in range(2):
        with (folder / f"samples-{process}.jsonl").open("w") as file:
            for second in range(-3, seconds + 2):
                here = len(histories) // 2
                playing = max(0, min(here, here * (second + 3) // 3)) if second < seconds else 0
                sample: dict[str, Any] = {
                    "at_ms": START_MS + (second + 1) * 1000,
                    "playing": playing - playing // 20,
                    "offline": playing // 20,
                    "connecting": here - playing,
                    "connected": playing,
                    "resumes": max(0, second) // 4,
                    "errors": {"201": max(0, second) // 7},
                    "closes": {"1006": max(0, second) // 4},
                    "late_hdr": Histogram([200.0 * (second + 5)]).encode(),
                }
                file.write(json.dumps(sample) + "\n")
            file.write('{"at_ms": 17900')  # torn: killed while writing
    (folder / "marks.jsonl").write_text(
        json.dumps({"at_ms": START_MS + seconds * 400, "what": "kill gateway-1"})
        + "\n"
        + json.dumps(
            {"at_ms": START_MS + seconds * 700, "what": "freeze <postgres>", "until_ms": START_MS + seconds * 800}
        )
        + "\n"
    )


def invent_document(
    folder: Path,
    *,
    players: int = 40,
    seconds: int = 30,
    seed: int = 1,
    slower_ms: float = 0.0,
    lost: int = 0,
    shard: str | None = None,
) -> dict[str, Any]:
    """The report of it."""
    histories = invent_histories(players, seconds, seed=seed, slower_ms=slower_ms)
    write_samples(folder, histories, seconds)
    made = players * seconds
    audit = AuditReport(offered=made, accepted=made, saved=made - lost, players=players)
    for number in range(lost):
        step = histories[number].streams[f"phone-{number}"].steps[7]
        what = "was accepted, but has no row <of its own>"
        audit.add(Finding.of("lost", histories[number].user_id, step.device, step.seq, what, step))
    facts = {
        "options": {
            "players": players,
            "seconds": seconds,
            "rate": 1.0,
            "random_seed": seed,
            "experience": "wylding-woods",
        },
        "play_s": float(seconds),
        "accepted_per_s": made / seconds,
        "welcomes": {"resumed": players // 10},
        "resumes": players // 10,
        "closes": {1006: players // 10, 4001: 3},
        "errors": {201: 8},
        "commits": 400,
        "commits_of_ramp": 40,
        "accepted_per_commit": made / 400,
        "settled_s": 1.2,
        "audit": audit.as_dict(),
    }
    run = {"scenario": "story", "cost": {"tool_cpu_us_per_update": 95.5}} | ({"shard": shard} if shard else {})
    series = make_series(histories, folder, START_MS)
    return json.loads(json.dumps(make_document(facts, histories, audit, series, run)))
