"""
The three tables of the data model with what was measured, as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.data_model.storage import ABOUT, total_bytes

MB = 1e6

# Operation, target in ms, which times of the socket and of the API stand for it.
OPERATIONS = (
    ("Read active session", 10, "state", "state active"),
    ("Write progress event", 50, "event", "event active"),
    ("Query player inventory", 20, "inventory", "inventory active"),
    ("Check waypoint visited", 15, "visited", "visited active"),
    ("Full player history", 1000, "full_history", "full_history anybody"),
)
ANALYTICS_TARGET_MS = 500
ITS_QUERY = "engagement of a waypoint, 7 d"
"""What the data model itself asks, over the window that it asks about."""
EXPECTED_HITS = {
    "active": "95-99 %",
    "recently active": "80-90 %",
    "inactive": "0 %",
    "inactive, again": "-",
}


def show_report(result: Mapping[str, Any]) -> str:
    parts = []
    if "operations" in result:
        parts += [show_operations(result["operations"])]
    if "cache" in result:
        parts += [show_cache(result["cache"])]
    if "storage" in result:
        parts += [show_storage(result["storage"], result["workload"]["storage"])]
    parts.append(f"others kept {result.get('others_cores', 0)} cores busy meanwhile")
    return "\n\n".join(parts)


def show_operations(found: Mapping[str, Any]) -> str:
    socket, api, analytics = found["socket"]["times"], found["api"]["times"], found["analytics"]["times"]
    rows = [("Operation", "target", "socket p50 / p99", "×", "Python API p50 / p99", "×")]
    for name, target, of_socket, of_api in OPERATIONS:
        rows.append((name, f"< {target} ms", *_cells(socket.get(of_socket), target), *_cells(api.get(of_api), target)))
    wanted = f"< {ANALYTICS_TARGET_MS} ms"
    rows.append(
        ("Analytics query (the data model's)", wanted, "", "", *_cells(analytics.get(ITS_QUERY), ANALYTICS_TARGET_MS))
    )
    rows.append(("Analytics query (slowest of ours)", wanted, "", "", *_worst(analytics)))
    lines = [
        f"(a) Operations, with {found['stored_events']:,} events of {found['stored_players']:,} players stored and "
        f"{found['socket']['welcome']:,} players in; × is target ÷ p99",
        *_table(rows),
        "",
        *_show_fewer(found),
        "beside it:",
    ]
    others = [
        (f"socket: {name}", times) for name, times in socket.items() if name not in {row[2] for row in OPERATIONS}
    ]
    others += [(f"API: {name}", times) for name, times in api.items() if name not in {row[3] for row in OPERATIONS}]
    others += [(f"analytics: {name}", times) for name, times in analytics.items()]
    others += [("hello of a player who was not hot", found["came"]["times"]["hello"])]
    others += [("how late the players' process sent", found["socket"]["sent_late"])]
    lines += _table([("", "count", "p50 ms", "p99 ms", "max ms"), *(
        (name, f"{times['count']:,}", _ms(times["p50"]), _ms(times["p99"]), _ms(times["max"])) for name, times in others
    )])  # fmt: skip
    errors = {
        **found["came"]["errors"],
        **found["socket"]["errors"],
        **found["api"]["errors"],
        **found["analytics"]["errors"],
    }
    lines.append(
        f"errors: {errors or 'none'}; unanswered: {found['socket']['unanswered']}; void: {found['socket']['voids']}"
    )
    return "\n".join(lines)


def _show_fewer(found: Mapping[str, Any]) -> list[str]:
    """The same operations while fewer others use the same cores."""
    if "socket_fewer" not in found:
        return []
    alone, with_api = (part["times"] for part in found["socket_fewer"].values())
    rows = [("p50 / p99 in ms of", *found["socket_fewer"], "and analytics (as above)")]
    for name, _, of_socket, of_api in OPERATIONS:
        rows.append((f"{name}, by socket", *_pairs(of_socket, alone, with_api, found["socket"]["times"])))
        rows.append((f"{name}, Python API", *_pairs(of_api, {}, found["api_fewer"]["times"], found["api"]["times"])))
    return [*_table(rows), ""]


def _pairs(operation: str, *parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"{_ms(part[operation]['p50'])} / {_ms(part[operation]['p99'])}" if operation in part else "-" for part in parts
    ]


def show_cache(found: Mapping[str, Any]) -> str:
    rows = [("Kind of player", "expected", "measured", "reads")]
    for kind, counts in found["kinds"].items():
        rate = f"{counts['hits'] / counts['reads']:.1%}" if counts["reads"] else "-"
        rows.append((kind, EXPECTED_HITS[kind], rate, f"{counts['reads']:,}"))
    hellos = found["hellos"]
    rate = f"{hellos['hits'] / hellos['lookups']:.1%}" if hellos["lookups"] else "-"
    rows.append(("hellos of players who come in", "-", rate, f"{hellos['lookups']:,.0f}"))
    return "\n".join(
        [
            f"(b) Cache hit rates, {found['seconds']:.0f} s with an hour of {found['hour_s']} s",
            *_table(rows),
            f"player_progress_cache_hit_rate at the end: {found['metric']:.3f} (of the gateway, which here sees only "
            "hellos of players who come in anew; the reads above are a service's)",
        ]
    )


def show_storage(found: Mapping[str, Any], workload: Mapping[str, Any]) -> str:
    ours, sketch, planned = found["ours"], found["sketch"], found["planned"]
    rows = [("Bytes per player", "planned", "the data model's tables", "ours: rows", "ours: indexes")]
    for kind, sizes in ours.items():
        theirs = sum(sketch[kind].values()) if kind in sketch else None
        rows.append(
            (
                ABOUT[kind],
                _bytes(planned.get(kind)),
                _bytes(theirs),
                _bytes(sizes["rows"]),
                _bytes(sizes["indexes"]),
            )
        )
    total, theirs, plan = total_bytes(ours), total_bytes(sketch), sum(planned.values())
    rows.append(("Postgres, all", _bytes(plan), _bytes(theirs), _bytes(total), ""))
    lines = [
        f"(c) Storage, {found['players']:,} players with {found['events_per_player']:.0f} events each; "
        f"state {found['state_bytes']} B, data {found['data_bytes']} B of JSON on average",
        *_table(rows),
    ]
    redis = found.get("redis")
    if redis:
        keys = redis["settled"]["bytes"]
        each = (redis["settled"]["used"] - redis["empty"]["used"]) / redis["active"]
        lines += [
            "",
            f"Redis, {redis['active']:,} active players: {each:,.0f} B each (planned 3,500 B); of that "
            + ", ".join(f"{kind} {size:,} B" for kind, size in sorted(keys.items(), key=lambda pair: -pair[1])),
            "",
            *_table(
                [
                    ("Players", "planned", "Postgres", "Redis (a tenth of them active)"),
                    *(
                        (
                            f"{players:,}",
                            f"{plan * players / MB:,.0f} MB + {players * workload['active_part'] * 3500 / MB:,.0f} MB",
                            f"{total * players / MB:,.0f} MB",
                            f"{players * workload['active_part'] * each / MB:,.0f} MB",
                        )
                        for players in (found["players"], *workload["extrapolate_to"])
                    ),
                ]
            ),
        ]
    return "\n".join(lines)


def _cells(times: Mapping[str, float] | None, target_ms: float) -> tuple[str, str]:
    if times is None:
        return "-", ""
    return f"{_ms(times['p50'])} / {_ms(times['p99'])} ms", f"{target_ms / times['p99']:.0f}×"


def _worst(analytics: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """The slowest question decides."""
    if not analytics:
        return "-", ""
    return _cells(max(analytics.values(), key=lambda times: times["p99"]), ANALYTICS_TARGET_MS)


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bytes(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines
