"""What differs in the training of two policies, and which differences confound the comparison of the method.

The method is what the project compares: weighting, rows, critic, reference. A policy that has trained longer, on more
tokens, or from another start is better or worse for that reason too: the comparison is *confounded*, and says so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.config.effects import PACE
from wmtp_ray.config.schema import effects
from wmtp_ray.tracking.training_record import Start, TrainingRecord

TOKENS_TOLERANCE = 0.05  # rows differ in length, so equal steps give almost equal tokens
SEED_KEYS = ("seed", "train.sampling.seed", "critic_stage.sampling.seed")
_ROWS = "data.policy_rows"
_METHOD = ("weighting.", "rho1.", "reference.", "critic.", "critic_stage.")
_METHOD_KEYS = ("recipe", "train.value_coef")
# By hash or by count; what cannot change the policy is not told at all.
_TOLD_ELSEWHERE = (
    "model.path",
    "tokenizer.path",
    _ROWS,
    "weighting.type",
    *SEED_KEYS,
    "data.train_file",
    "train.max_steps",
    "train.epochs",
)
_HASH_CHARS = 8
_VALUE_CHARS = 40
_UNKNOWN = "not known"
_FILE = "file of rows"


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy as a comparison knows it: its name there, what identifies it, and how it was trained."""

    name: str
    path: str
    weights_sha256: str | None
    training: TrainingRecord | None

    @property
    def words(self) -> str:
        """Its folder and the first digits of its hash."""
        return _node(self).words


@dataclass(frozen=True)
class DifferenceRow:
    """One line of the table: what it is about, and of both policies what is known."""

    label: str
    before: str
    after: str


@dataclass(frozen=True)
class TrainingDifference:
    """`rows`: start, steps, tokens, rows, weighting, seeds, equal or not, then what else differs; none for one policy.

    `confounds` are clauses. `unknown` names the policies without a record, None if all have one. `further_keys` differ
    too and are not of the method.
    """

    rows: tuple[DifferenceRow, ...]
    confounds: tuple[str, ...]
    unknown: str | None
    further_keys: tuple[str, ...]

    @property
    def caution(self) -> str | None:
        """Sentences to show with a verdict, None where only the method differs."""
        if self.confounds:
            return f"This comparison is confounded: {'; '.join(self.confounds)}. It does not show the method's effect."
        if self.unknown is not None:
            return f"{self.unknown}, so it is unknown whether the training was equal."
        if self.further_keys:
            return f"Not only the method differs, but {', '.join(self.further_keys)} too."
        return None


def training_difference(before: TrainedPolicy, after: TrainedPolicy) -> TrainingDifference:
    """Compare how two policies were trained: since what both come from, where the records tell of such a policy."""
    if _same(_node(before), _node(after)):
        return TrainingDifference((), (), None, ())
    strangers = [each.name for each in (before, after) if each.training is None]
    keys = _differing_keys(before, after)
    rows = [*_extent_rows(before, after), *_file_row(before, after)]
    rows += [DifferenceRow(key, *(_setting(each, key) for each in (before, after))) for key in keys]
    return TrainingDifference(
        rows=tuple(rows),
        confounds=tuple(_confounds(before, after)),
        unknown=f"Nothing is known of how {' and '.join(strangers)} was trained" if strangers else None,
        further_keys=tuple(
            name
            for name in (*(row.label for row in rows if row.label == _FILE), *keys)
            if name not in _METHOD_KEYS and not name.startswith(_METHOD)
        ),
    )


def is_same_policy(before: TrainedPolicy, after: TrainedPolicy) -> bool:
    """Whether both are one policy, by the hash of its tensors or of its file."""
    return _same(_node(before), _node(after))


@dataclass(frozen=True)
class _Node:
    """A policy on the way to another: what identifies it, and the training behind it."""

    path: str
    weights_sha256: str | None
    training: TrainingRecord | None

    @property
    def policy_sha256(self) -> str | None:
        return None if self.training is None else self.training.policy_sha256

    @property
    def words(self) -> str:
        path = Path(self.path)
        name = f"{path.parent.name}/{path.name}" if path.name == "final" else path.name
        digest = self.weights_sha256 or self.policy_sha256
        return name if digest is None else f"{name} ({digest[:_HASH_CHARS]})"


def _same(one: _Node, two: _Node) -> bool:
    """Equal tensors, else equal files; the path decides only where a hash is missing."""
    if one.policy_sha256 is not None and one.policy_sha256 == two.policy_sha256:
        return True
    if one.weights_sha256 is not None and two.weights_sha256 is not None:
        return one.weights_sha256 == two.weights_sha256
    if one.policy_sha256 is not None and two.policy_sha256 is not None:
        return False
    return one.path == two.path


def _node(policy: TrainedPolicy) -> _Node:
    return _Node(policy.path, policy.weights_sha256, policy.training)


def _ancestry(policy: TrainedPolicy) -> Iterator[_Node]:
    """The policy, what its training started from, and so on."""
    node: _Node | None = _node(policy)
    while node is not None:
        yield node
        start = node.training.start if node.training is not None else None
        node = None if start is None else _Node(start.path, start.weights_sha256, start.training)


def _common(before: TrainedPolicy, after: TrainedPolicy) -> tuple[int, int] | None:
    """Return how many trainings back the newest policy lies that both come from; None without one."""
    afters = list(_ancestry(after))
    for back, node in enumerate(_ancestry(before)):
        for back_after, other in enumerate(afters):
            if _same(node, other):
                return back, back_after
    return None


def _trainings(policy: TrainedPolicy, count: int) -> list[TrainingRecord]:
    """Return the last so many trainings of a policy, the newest first."""
    nodes = list(_ancestry(policy))[:count]
    return [node.training for node in nodes if node.training is not None]


def _confounds(before: TrainedPolicy, after: TrainedPolicy) -> Iterator[str]:
    common = _common(before, after)
    if common is None:
        if before.training is None or after.training is None:
            return
        one, two = before.training.start, after.training.start
        yield f"{before.name} started from {_start_words(one)}, {after.name} from {_start_words(two)}"
        yield from _uneven(before, after, [before.training], [after.training], "")
        return
    back, back_after = common
    trained, trained_after = _trainings(before, back), _trainings(after, back_after)
    if back == 0:
        yield f"{after.name} trained {_steps(trained_after):,} steps more, from {before.name}'s end"
    elif back_after == 0:
        yield f"{before.name} trained {_steps(trained):,} steps more, from {after.name}'s end"
    else:
        since = "" if back == back_after == 1 else f" since {list(_ancestry(before))[back].words}"
        yield from _uneven(before, after, trained, trained_after, since)


def _uneven(
    before: TrainedPolicy,
    after: TrainedPolicy,
    trained: Sequence[TrainingRecord],
    trained_after: Sequence[TrainingRecord],
    since: str,
) -> Iterator[str]:
    one, two = _steps(trained), _steps(trained_after)
    if one != two:
        yield f"{after.name} trained {two:,} steps{since} and {before.name} {one:,}"
    tokens, tokens_after = _tokens(trained), _tokens(trained_after)
    if tokens is None or tokens_after is None:
        if one == two:
            yield f"supervised tokens{since} are not known of both"
    elif abs(tokens_after - tokens) > TOKENS_TOLERANCE * max(tokens, tokens_after, 1):
        yield f"{after.name} learned from {tokens_after:,} supervised tokens{since} and {before.name} from {tokens:,}"


def _steps(trainings: Sequence[TrainingRecord]) -> int:
    return sum(each.steps for each in trainings)


def _tokens(trainings: Sequence[TrainingRecord]) -> int | None:
    known = [each.supervised_tokens for each in trainings if each.supervised_tokens is not None]
    return sum(known) if len(known) == len(trainings) else None


def _start_words(start: Start) -> str:
    return _Node(start.path, start.weights_sha256, start.training).words


def training_cells(training: TrainingRecord | None) -> dict[str, str]:
    """Return what a reader asks first of a training, by label: start, steps, tokens and what makes the arm."""
    told: dict[str, Callable[[TrainingRecord], str]] = {
        "started from": lambda each: _start_words(each.start),
        "steps": _steps_words,
        "supervised tokens": lambda each: _number(each.supervised_tokens),
        "steps of its critic": lambda each: _number(each.critic_steps),
        "rows": lambda each: _short(str(each.settings.get(_ROWS))),
        "weighting": lambda each: each.weighting,
        "seeds": lambda each: _seeds(each.settings),
    }
    return {label: _UNKNOWN if training is None else read(training) for label, read in told.items()}


def _extent_rows(before: TrainedPolicy, after: TrainedPolicy) -> Iterator[DifferenceRow]:
    """Return rows of start, steps and tokens, equal ones included."""
    cells_after = training_cells(after.training)
    for label, cell in training_cells(before.training).items():
        yield DifferenceRow(label, cell, cells_after[label])


def _file_row(before: TrainedPolicy, after: TrainedPolicy) -> Iterator[DifferenceRow]:
    """The files of rows by their fingerprints, where these differ."""
    found = [None if each.training is None else each.training.dataset_fingerprint for each in (before, after)]
    if None not in found and found[0] != found[1]:
        yield DifferenceRow(_FILE, *(str(each)[:_HASH_CHARS] for each in found))


def _differing_keys(before: TrainedPolicy, after: TrainedPolicy) -> list[str]:
    """Keys of the configuration with other values, but for those that the table has in another form."""
    if before.training is None or after.training is None:
        return []
    one, two = before.training.settings, after.training.settings
    differing = [key for key in one | two if one.get(key) != two.get(key)]
    return [key for key in differing if key not in _TOLD_ELSEWHERE and not effects().of(key) & PACE]


def _setting(policy: TrainedPolicy, key: str) -> str:
    assert policy.training is not None, "keys differ only between known trainings"
    return _short(str(policy.training.settings.get(key)))


def _steps_words(training: TrainingRecord) -> str:
    """Steps of this training, and how many came before: "120 after 225"."""
    earlier = 0
    start = training.start
    while start.training is not None:
        earlier, start = earlier + start.training.steps, start.training.start
    return f"{training.steps:,} after {earlier:,}" if earlier else f"{training.steps:,}"


def _seeds(settings: dict[str, Any]) -> str:
    """Each seed once: the base seed, that of the rows, that of the critic's rows."""
    return "/".join(dict.fromkeys(str(settings[key]) for key in SEED_KEYS if key in settings))


def _number(count: int | None) -> str:
    return _UNKNOWN if count is None else f"{count:,}"


def _short(text: str) -> str:
    return text if len(text) <= _VALUE_CHARS else f"…{text[1 - _VALUE_CHARS :]}"
