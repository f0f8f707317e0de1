"""A judge as a Ray actor: one program at a time, next to others on as many cores as there are actors.

The judge restarts its zygote when that dies; Ray restarts the actor when the process dies, and retries the
call for the answer that it was judging.
"""

from pathlib import Path

from actors.stalls import enter_run
from wmtp_ray.config.evaluation import EvaluationConfig
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judging import Judgement, JudgeTask, judge_answer


class JudgeWorker:
    """Owns a judge at the isolation level that the driver found; raises SandboxError where this node gives less."""

    def __init__(self, settings: EvaluationConfig, isolation_level: str, directory: Path, number: int) -> None:
        enter_run(directory, f"judge_{number}")
        self._judge = Judge(
            isolation_level,
            settings.timeout_s,
            num_workers=1,
            memory_limit_bytes=int(settings.memory_limit_mb * (1 << 20)),
        )
        enter_run(directory, f"judge_{number}", is_ready=True)

    def isolation_level(self) -> str:
        """Return the level; the answer shows that the judge has started."""
        return self._judge.isolation_level

    def judge(self, task: JudgeTask) -> Judgement:
        """Judge one answer."""
        return judge_answer(self._judge, task)

    def close(self) -> None:
        """End the judge's processes and remove its scratch folder."""
        self._judge.close()
