"""The arms and the critics of the experiments: what each changes, as words of a command line."""

from dataclasses import dataclass, replace
from typing import Literal

from wmtp_ray.config import arms

CRITIC_STEPS = 240


_OF_MODEL = ("critic.head=", "critic.value_error=", "critic.ensemble=")  # what decides which tensors it has


@dataclass(frozen=True)
class Critic:
    """What a critic changes of that of preset.own-critic.yaml, and whose trunk it starts from."""

    what: str
    words: tuple[str, ...] = ()
    trunk: Literal["base", "mixed", "random"] = "base"

    @property
    def model_words(self) -> tuple[str, ...]:
        """What stage 2 must know of it, to load it."""
        return tuple(word for word in self.words if word.startswith(_OF_MODEL))


AS_SHIPPED = ("critic.train_trunk=false", "critic.value_error=squared", "critic.pairs=length")
CRITICS: dict[str, Critic] = {
    "frozen_linear": Critic("frozen trunk, linear head, squared error", (*AS_SHIPPED, "critic.head=linear")),
    "frozen_mlp": Critic("frozen trunk, mlp head, squared error", AS_SHIPPED),
    "own_trunk": Critic("a trunk of its own, trained", ("critic.value_error=squared", "critic.pairs=length")),
    "bce": Critic("+ bce", ("critic.pairs=length",)),
    "seeing": Critic("+ pairs by token edits (`preset=own-critic`)"),
    "categorical": Critic("the same, categorical error", ("critic.value_error=categorical",)),
    "attention": Critic("the same, attention head", ("critic.head=attention",)),
    "from_mixed": Critic("the same, trunk of a policy trained on mixed rows", trunk="mixed"),
    "from_scratch": Critic("the same, trunk from scratch", trunk="random"),
    "ensemble": Critic("the same, 4 of them on halves of the problems", ("critic.ensemble=4",)),
    "long": Critic("the same, 3 times the steps", (f"critic_stage.max_steps={3 * CRITIC_STEPS}",)),
}
SEEING = "seeing"  # the critic of the arms


@dataclass(frozen=True)
class Arm:
    """One way to train from the base; `source` says whose scores it needs, `critic` which of `CRITICS`."""

    words: tuple[str, ...]
    source: arms.ScoreSource = "none"
    critic: str = SEEING


def weighted(name: str) -> Arm:
    """An arm of the table, on its usual rows."""
    arm = arms.ARMS[name]
    return Arm((f"weighting.type={name}", f"data.policy_rows={arm.usual_rows}"), arm.source)


def then_correct(arm: Arm) -> Arm:
    """The same, with the second half of its steps on correct rows with equal weights."""
    return replace(arm, words=(*arm.words, "train.finish_correct_frac=0.5"))


METHOD, BASELINE, SHUFFLED = arms.METHOD.name, arms.BASELINE.name, arms.arms_of("placement")[0].name
CORRECT, MIXED = Arm(()), Arm(("data.policy_rows=mixed",))
# What is learnt from the problems that have no correct row: beside CORRECT, the second reference of a contrast.
INCORRECT = replace(MIXED, words=(*MIXED.words, "train.sampling.problem_classes=[only_incorrect]"))
ARMS: dict[str, Arm] = {
    "correct": CORRECT,
    "mixed": MIXED,
    "incorrect": INCORRECT,
    **{name: weighted(name) for name in arms.ARMS if name != BASELINE},
    **{
        f"{name}_when_sure": replace(weighted(name), words=(*weighted(name).words, "weighting.push_below=0.1"))
        for name, arm in arms.ARMS.items()
        if arm.pushes_down
    },
    "conditioned": replace(MIXED, words=(*MIXED.words, "data.condition=label")),
    "mixed_then_correct": then_correct(MIXED),
    f"{METHOD}_then_correct": then_correct(weighted(METHOD)),
    f"{SHUFFLED}_then_correct": then_correct(weighted(SHUFFLED)),
    **{f"{METHOD}_by_{name}": replace(weighted(METHOD), critic=name) for name in CRITICS if name != SEEING},
}
PERFECT = tuple(arm.name for arm in arms.arms_of("ceiling"))
CONTRASTED = tuple(name for name, arm in arms.ARMS.items() if arm.needs_two_references)
CEILING = ("correct", "mixed", *PERFECT)
# Variants of the method are not part of "all arms": they are asked for by name.
ALL_ARMS = tuple(name for name in ARMS if not name.startswith(f"{METHOD}_by_"))
