"""
Live-ops: the HTTP API, the live feed and the console on the ops port. A process of its own (`ops-1`), so that nobody
who watches can slow down anybody who plays.
"""
