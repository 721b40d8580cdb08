"""
What Wayhold costs, measured: `python -m benchmarks` (or `make bench`).

Promise: loopback only, bounded in time, everything in a temporary folder that is removed. Every figure comes with the
machine, the versions, the workload and every setting that is not the default. CPU is what the operating system counted
for the processes themselves, divided by the rows that are in Postgres afterwards.

Not here: whether anything is lost (`make faults`).
"""
