"""A run in rounds, without the processes that it starts: the loop, its rows and its record.

| module | what |
|---|---|
| `run_rounds.py` | for each round: collect, mix, train; and again after a kill |
| `mixed_rows.py` | what a round trains on: rows of the file and collected ones, in a share |
| `rounds_record.py` | the rounds that are done, as rounds.json |
"""
