"""The dataclasses that cross process and layer boundaries: index, example, batch, scores, report. Imports neither torch
nor ray; arrays are numpy's.

Shape suffixes: B sequences, T positions, M documents of the batch, H horizons, R rows of an index.
A *row* is a JSONL record; an *example* is a row tokenised; a *batch* is the micro-batch one forward sees.

A batch is flat: its documents stand one behind the other in one sequence (B = 1, T = sum of the documents' tokens),
without padding. Attention, positions and horizons never cross a document's end. Three documents of 3, 2 and 4 tokens:

    tokens_BT          [[1 7 2 | 1 2 | 1 5 6 2]]
    document_ids_BT    [[0 0 0 | 1 1 | 2 2 2 2]]
    positions_BT       [[0 1 2 | 0 1 | 0 1 2 3]]
    document_lengths_M [3 2 4]
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowIndex:
    """One entry per valid row of a JSONL, in file order: all that a plan needs to know without reading the file.

    `problem_R` holds codes into `problem_names` (task_id without its solution suffix), `source_R` codes into
    `source_names` (where the problem comes from: difficulties of different sources do not compare).
    `prompt_tokens_R` and `response_tokens_R` are -1 until counted for `tokenizer_hash`, which names a tokenizer and,
    where rows are chats, the chat template (`CodeTokenizer.counts_hash`); the prompt count includes BOS, the response
    count includes EOS, and their sum is the length of the example.
    """

    path: str
    offset_R: Int64
    num_bytes_R: Int32
    difficulty_R: Int16
    is_correct_R: Bool
    problem_R: Int32
    problem_names: tuple[str, ...]
    language_R: npt.NDArray[np.int8]
    cf_rating_R: Int16
    source_R: Int16
    source_names: tuple[str, ...]
    prompt_tokens_R: Int32
    response_tokens_R: Int32
    file_fingerprint: str
    tokenizer_hash: str

    def __len__(self) -> int:
        return len(self.offset_R)

    @cached_property
    def num_tokens_R(self) -> Int32:
        """Tokens of each example, prompt and response together."""
        return self.prompt_tokens_R + self.response_tokens_R


@dataclass(frozen=True)
class RowEdits:
    """What sets a row apart from the nearest row of the other class of its problem, by token edits.

    `differs_T` marks the tokens of the example that the shortest edit replaces or deletes. `first` is the first token
    that differs from the other row's at the same place, -1 where there is no other row. `correct_frac` is the share of
    correct rows among those that have all tokens before `first` in common, both rows among them.
    """

    differs_T: Bool
    first: int
    correct_frac: float


@dataclass(frozen=True)
class Example:
    """A row tokenised: BOS, prompt, response, EOS. Supervised are the response tokens and the EOS."""

    row_id: int
    tokens_T: Int32
    prompt_tokens: int
    is_correct: bool
    edits: RowEdits | None = None


@dataclass(frozen=True)
class BatchEdits:
    """The `RowEdits` of a batch's documents; `first_M` counts from the start of the batch, -1 without another class."""

    differs_BT: Bool
    first_M: Int64
    correct_frac_M: Float32


@dataclass(frozen=True)
class TokenBatch:
    """One micro-batch of one rank: flat documents (see the module's example). `row_ids_M` names them in the index.

    `edits` are there where the weighting asks for them.
    """

    step: int
    micro_step: int
    tokens_BT: Int64
    document_ids_BT: Int32
    positions_BT: Int32
    supervised_mask_BT: Bool
    document_lengths_M: Int32
    rewards_M: Float32
    row_ids_M: Int64
    edits: BatchEdits | None = None

    @property
    def num_tokens(self) -> int:
        return int(self.tokens_BT.size)

    @property
    def num_supervised_tokens(self) -> int:
        return int(self.supervised_mask_BT.sum())


@dataclass(frozen=True)
class Scores:
    """A model's scores of one micro-batch: a critic sets the values, a reference the losses.

    `values_BT[t]` = V(x_0..x_t), the critic's value of the state after token t; where the critic is an ensemble,
    `disagreements_BT[t]` is the standard deviation of its members' values there. `losses_BT[t]` = the reference
    model's next-token cross-entropy of token t given those before it (0 at a document's first token), and
    `incorrect_losses_BT` a second reference's, that of incorrect rows.
    """

    version: int
    values_BT: Float32 | None = None
    losses_BT: Float32 | None = None
    incorrect_losses_BT: Float32 | None = None
    disagreements_BT: Float32 | None = None


@dataclass(frozen=True)
class ScoredBatch:
    """A micro-batch with its scores. `staleness_steps` = step - version for a critic, 0 where nothing ages."""

    batch: TokenBatch
    scores: Scores | None
    staleness_steps: int
    wait_s: float


IN_FINISH = "weight/finish"  # the metric of a step whose weights are those of train.finish_correct_frac


@dataclass(frozen=True)
class StepReport:
    """Metrics of one optimizer step, already reduced over ranks; keys as in metrics.jsonl (`loss/policy`, ...)."""

    stage: int
    step: int
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def metrics_of_arm(self) -> dict[str, float]:
        """The metrics; in a step of a finish without the weights, which the arm has not made."""
        if IN_FINISH not in self.metrics:
            return self.metrics
        return {name: value for name, value in self.metrics.items() if not name.startswith("weight/")}
