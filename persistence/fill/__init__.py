"""
Filling a database with believable players: for benchmarks, query plans and demonstrations.

story.py invents what a player did, journey.py makes of it what the flusher would have written, copy_rows.py puts that
into the bytes that COPY takes, fill.py does it for a whole database.
"""
