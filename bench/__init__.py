"""Benchmarks of the ops beside what people use today: `illume-fast bench`.

`cases/` says what is timed and against whom, `runner.py` times it, `machine.py` measures what this machine could do at
best, `report.py`, `table.py` and `plots.py` show results, `compare.py` tells whether anything became slower.
"""
