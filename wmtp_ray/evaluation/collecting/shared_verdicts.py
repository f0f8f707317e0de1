"""Equal programs of a problem are judged once, and have one verdict."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from wmtp_ray.evaluation.judging import Judgement, JudgeTask
from wmtp_ray.evaluation.samples import Place

_Program = tuple[str, str]  # (task_id, program)


class SharedVerdicts:
    """Knows which programs were asked for, and who else waits for their verdicts."""

    def __init__(self) -> None:
        self._verdicts: dict[_Program, Judgement] = {}
        self._asked: dict[Place, _Program] = {}
        self._programs: set[_Program] = set()
        self._waiting: dict[_Program, list[int]] = defaultdict(list)

    def know(self, task: JudgeTask, judgement: Judgement) -> None:
        """Take a verdict from before."""
        program = task.task_id, task.program
        self._programs.add(program)
        self._verdicts[program] = judgement

    def ask(self, task: JudgeTask) -> JudgeTask | None:
        """Return the task, or None where its program's verdict is known or will come."""
        program = task.task_id, task.program
        if program in self._programs:
            self._waiting[program].append(task.sample)
            return None
        self._programs.add(program)
        self._asked[task.task_id, task.sample] = program
        return task

    def settle(self, judgements: Iterable[Judgement]) -> list[Judgement]:
        """Return verdicts that have come, and the same for the answers that wait for them."""
        found = list(judgements)
        for judgement in found:
            self._verdicts[self._asked.pop((judgement.task_id, judgement.sample))] = judgement
        for program in [each for each in self._waiting if each in self._verdicts]:
            found += [replace(self._verdicts[program], sample=sample) for sample in self._waiting.pop(program)]
        return found
