"""Pass@K of the policy while it trains, on a few problems that stay the same (`evaluation.every_steps`).

| module | what |
|---|---|
| `step_plan.py` | which problems, asked and judged how: found out before anything starts |
| `evaluate_step.py` | one policy's answers and verdicts, into the folder of its step |
| `give_way.py` | decoding that leaves busy cores to others |
| `step_scores.py` | what has been found so far, step by step |

Handing a policy over is `training/policy_evaluations.py`'s, who evaluates it `flows/run/step_evaluations.py`'s.
"""
