"""Rows from a policy's own answers: sample training problems, judge the programs, keep the different ones.

| module | what |
|---|---|
| `collection_settings.py` | how many answers to draw, and how many rows to keep |
| `training_problems.py` | problems to train on, and what the rows of their data set say of them |
| `evaluated_problems.py` | the problems that results are measured on, and that give no rows |
| `counted_tests.py` | how many of its tests a program passed |
| `answer_classes.py` | which answers are correct, incorrect, or neither; which are the same program |
| `collected_rows.py` | answers that are kept, as rows |
| `local_workers.py` | decoding and judging in this process |
| `collect.py` | all of it, on the disk as it comes, and again after a kill |
"""
