"""
Small servers that do what Wayhold does for one update, as their own documentation advises: what Wayhold is compared
with in `python -m benchmarks rivals`.

Each is at most 150 lines and does the same for a message: decode it, check its shape, one Lua call in Redis (dedupe by
seq, state, pending list), acknowledge. Tokens are checked at hello. `write_behind.py` takes what is pending to Postgres
every second, for all of them, in a process of its own, so that nobody's server is charged for it.

What they do not do, and Wayhold does: effects, fences, copies, windows, rate limits, metrics, slow clients, resume,
`saved`, rollups, losing nothing when Redis forgets.
"""
