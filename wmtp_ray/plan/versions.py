"""Which version of the critic scores which step: a pure function of the step, so scores never depend on timing.

Version p is the critic after p optimizer steps. With K = 4 steps of look-ahead and a publication every N = 5 steps:

    step     0 1 2 3 4 5 6 7 8 | 9 10 11 12 13 | 14 ...
    version  0 0 0 0 0 0 0 0 0 | 5  5  5  5  5 | 10 ...

Step 9 is submitted when step 5 starts (K before), which is when version 5 has just been published; step 13 is the
stalest user of version 5: 13 - 5 = K + N - 1 = 8.

The steps of a finish (`plan/finish.py`) are scored only where a value loss reads the scores. Else no version is
published that no step would read: with a finish from step 12 on, version 5 is the last.
"""

from dataclasses import dataclass
from typing import Protocol

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.plan.run_plan import RunPlan


class VersionSchedule(Protocol):
    """What scoring asks of a schedule."""

    def scores(self, step: int) -> bool:
        """Return whether anything reads the scores of `step`."""
        ...

    def version_of(self, step: int) -> int:
        """Return the version that scores `step`."""
        ...

    def is_published_at(self, step: int) -> bool:
        """Return whether the critic is published after `step` optimizer steps."""
        ...

    @property
    def staleness_bound(self) -> int:
        """Return the most steps that may lie between a version and a step it scores."""
        ...

    def staleness(self, step: int) -> int:
        """Return how many steps lie between `step` and the version that scores it."""
        ...


@dataclass(frozen=True)
class PublishedVersions:
    """Step s is scored by the newest version that was published at a step <= s - lookahead_steps.

    Steps from `unscored_from` on are not scored; None: all are.
    """

    lookahead_steps: int
    publish_every: int
    unscored_from: int | None = None

    def scores(self, step: int) -> bool:
        return self.unscored_from is None or step < self.unscored_from

    def version_of(self, step: int) -> int:
        return max(0, (step - self.lookahead_steps) // self.publish_every * self.publish_every)

    def is_published_at(self, step: int) -> bool:
        is_read = self.unscored_from is None or step <= self.version_of(self.unscored_from - 1)
        return is_read and step % self.publish_every == 0

    @property
    def staleness_bound(self) -> int:
        return self.lookahead_steps + self.publish_every - 1

    def staleness(self, step: int) -> int:
        return step - self.version_of(step)


@dataclass(frozen=True)
class OneVersion:
    """A model that never changes (a frozen critic, a reference): version 0 scores the steps and does not age."""

    unscored_from: int | None = None

    def scores(self, step: int) -> bool:
        return self.unscored_from is None or step < self.unscored_from

    def version_of(self, step: int) -> int:
        return 0

    def is_published_at(self, step: int) -> bool:
        return False

    @property
    def staleness_bound(self) -> int:
        return 0

    def staleness(self, step: int) -> int:
        return 0


def version_schedule(config: RunConfig, plan: RunPlan | None) -> VersionSchedule:
    """Return which version of the scoring model belongs to which step of stage 2; `plan` is None where none is made."""
    unscored_from = None
    if plan is not None and plan.finish is not None and not config.reads_values_always:
        unscored_from = plan.finish.start_step
    if config.uses_critic and config.critic.source == "policy":
        return PublishedVersions(config.critic.lookahead_steps, config.critic.publish_every, unscored_from)
    return OneVersion(unscored_from)
