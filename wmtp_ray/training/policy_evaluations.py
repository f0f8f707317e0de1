"""Handing the policy over while it trains, so that another process can evaluate it; training does not wait for that.

At the steps that `evaluation.every_steps` names rank 0 copies the policy's weights, and a thread writes the copy as a
file of this start of the ranks. Whoever evaluates takes the file and removes it when the evaluation is done; until then
a step whose turn it is does without. The file is the only message: neither side waits for the other.

| at a due step | then |
|---|---|
| this policy has been evaluated (a run continues here) | nothing |
| the evaluation before is not done | the step skips its turn, and says so |
| handing over took more than `MOST_DELAY` of the time since it was last done | the step skips its turn, and says so |
| no process evaluates any more (`closed`) | the step skips its turn |
| else, and after the last step in any case | the policy is handed over |

Rank 0 decides and all ranks hear it, since gathering the weights of a sharded policy takes all of them. Reads weights
and draws nothing: training does not notice. No Ray.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from wmtp_ray.artifacts.snapshots import SnapshotDirectory, version_of_file
from wmtp_ray.artifacts.streamed_tensors import forms_of, write_streamed
from wmtp_ray.evaluation.during.step_scores import StepScores, is_due
from wmtp_ray.model.policy import Policy
from wmtp_ray.ranks import Ranks
from wmtp_ray.training.evaluated_policy import evaluated_state
from wmtp_ray.training.sharding import whole_tensors

_LOG = logging.getLogger(__name__)
MOST_DELAY = 0.03  # of the time that steps take: what handing over may cost
SKIPPED, HANDOVER_S = "eval/skipped", "eval/handover_seconds"
_CLOSED = "closed"


class _Turn(IntEnum):
    """What becomes of a due step."""

    KNOWN = 0
    HAND_OVER = 1
    BUSY = 2
    DEAR = 3
    CLOSED = 4


_WHY = {
    _Turn.BUSY: "the evaluation before it is not done: evaluate fewer problems or answers (evaluation.during_limit, "
    "evaluation.num_samples), or less often (evaluation.every_steps)",
    _Turn.DEAR: f"handing over its weights would delay training by more than {MOST_DELAY:.0%}: evaluate less often "
    "(evaluation.every_steps)",
    _Turn.CLOSED: "no process evaluates any more in this start of the run",
}


class PolicyEvaluations:
    """The port of the loop that hands policies over. Every rank makes one and calls it.

    `snapshots` is the folder of this start, `scores` is what has been found so far.
    """

    def __init__(
        self,
        policy: Policy,
        snapshots: SnapshotDirectory,
        scores: StepScores,
        interval: int,
        ranks: Ranks,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._policy = policy
        self._snapshots = snapshots
        self._scores = scores
        self._interval = interval
        self._ranks = ranks
        self._clock = clock
        self._copies: dict[str, Tensor] = {}  # kept, so that their memory is asked for once
        self._writing: tuple[int, threading.Thread] | None = None
        self._handover_s = 0.0
        self._ended_s = clock()
        self._is_first = True
        self._has_told = False

    def hand_over(self, done: int, num_steps: int) -> dict[str, float]:
        """Hand the policy after `done` of `num_steps` steps over where it is due; return what that took.

        `eval/skipped` is 1 where a due step skips its turn, else 0.
        """
        if not is_due(done, self._interval, num_steps):
            return {}
        started = self._clock()
        turn = self._agreed(done, is_last=done == num_steps)
        self._is_first = False
        if turn == _Turn.KNOWN:
            return {}
        if turn != _Turn.HAND_OVER:
            self._tell(done, turn)
            return {SKIPPED: 1.0}
        own = evaluated_state(self._policy)
        whole = whole_tensors(own, self._ranks)
        if self._ranks.rank == 0:
            self._start_writing(done, own, whole)
        self._ended_s = self._clock()
        self._handover_s = self._ended_s - started
        return {SKIPPED: 0.0, HANDOVER_S: self._handover_s}

    def pending(self) -> set[int]:
        """Return the steps whose policies wait for their evaluation or are being evaluated; rank 0 knows."""
        waiting = {version_of_file(path) for path in self._snapshots.files()}
        return waiting | ({self._writing[0]} if self._is_writing() and self._writing is not None else set())

    def finish(self, deadline_s: float) -> None:
        """Return when what was handed over is on the disk, or after `deadline_s`."""
        if self._writing is not None:
            self._writing[1].join(deadline_s)

    def _agreed(self, done: int, *, is_last: bool) -> _Turn:
        """Rank 0's decision, the same on every rank."""
        turn = self._turn(done, is_last=is_last) if self._ranks.rank == 0 else 0
        return _Turn(int(self._ranks.sum(torch.tensor([float(turn)]))))

    def _turn(self, done: int, *, is_last: bool) -> _Turn:
        if self._is_first and self._scores.is_evaluated(done):
            return _Turn.KNOWN
        if is_closed(self._snapshots.path.parent):
            return _Turn.CLOSED
        if is_last:
            return _Turn.HAND_OVER
        if self._is_writing() or self._snapshots.files():
            return _Turn.BUSY
        if self._handover_s > MOST_DELAY * (self._clock() - self._ended_s):
            return _Turn.DEAR
        return _Turn.HAND_OVER

    def _is_writing(self) -> bool:
        return self._writing is not None and self._writing[1].is_alive()

    def _start_writing(self, done: int, own: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
        if self._writing is not None:
            self._writing[1].join()  # after the last step: the copies are those that it writes
        for name, tensor in whole.items():
            self._copies[name] = self._copied(name, tensor) if _is_of_this_memory(own[name]) else tensor
        thread = threading.Thread(target=self._write, args=(done,), name="evaluated-policy", daemon=True)
        self._writing = (done, thread)
        thread.start()

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._copies:
            return tensor.clone()
        return self._copies[name].copy_(tensor)

    def _write(self, done: int) -> None:
        """The thread: write the copies; a full disk costs an evaluation and nothing else."""
        try:
            write_streamed(self._snapshots.file_of(done), forms_of(self._copies), self._copies.__getitem__)
        except OSError as error:
            _LOG.warning(
                "The policy of step %d is not evaluated: it could not be written to %s (%s); free disk space. Training "
                "goes on",
                done,
                self._snapshots.path,
                error,
            )

    def _tell(self, done: int, turn: _Turn) -> None:
        """Warn of the first skipped turn; metrics and the log count all of them."""
        if self._ranks.rank != 0:
            return
        level = logging.INFO if self._has_told else logging.WARNING
        self._has_told = True
        _LOG.log(level, "The policy of step %d is not evaluated, since %s", done, _WHY[turn])


def close_evaluations(root: Path) -> None:
    """Say that what is handed over below `root` is not taken any more."""
    root.mkdir(parents=True, exist_ok=True)
    (root / _CLOSED).touch()


def is_closed(root: Path) -> bool:
    """Whether what is handed over below `root` is not taken any more."""
    return (root / _CLOSED).exists()


def _is_of_this_memory(tensor: Tensor) -> bool:
    """Whether gathering the tensor gives its own memory, which the next step changes."""
    return tensor.device.type == "cpu" and not isinstance(tensor, DTensor)
