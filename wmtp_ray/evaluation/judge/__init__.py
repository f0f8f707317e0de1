"""Judging model-written programs: `Judge`, and the verdicts it gives."""

from wmtp_ray.evaluation.judge.judge import Judge
from wmtp_ray.evaluation.judge.verdict import StdioVerdict, Verdict

__all__ = ["Judge", "StdioVerdict", "Verdict"]
