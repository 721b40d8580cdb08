"""
`make bench-data-model`: the data model's three tables of targets with a measured column.

__main__.py says in which order; players.py is the process of players, load.py drives it; api.py calls the Python API;
cache.py, storage.py measure the other two tables; report.py writes all three.
"""
