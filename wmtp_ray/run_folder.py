"""Every path inside a run's folder, a sweep's and that of a run in rounds: the one place that spells them.

It reads and writes nothing.

    storage/runs/<run>/  config.yaml  plan.json plan.npz  stage1_plan.json stage1_plan.npz
                         start.json  decisions.json places.jsonl  metrics.jsonl  result.json  report.html
                         eval/<dataset>/  eval_steps/<set>/step_<n>/  exported/step_<n>/  audit.json
                         snapshots_evaluated/
                         stop_requested  processes/  logs/  stacks/  ray/  snapshots_frozen/
                         mlflow_run_id  wandb_run_id  trackio_run_id  tensorboard/  wandb/
                         and what a stage leaves, of stage 2; critic/ holds the same of stage 1:
                         checkpoints/step_<n>/  final/  snapshots/  stage_result.json  failure.txt
                         reports_of_checkpoint.json  token_evidence.json
    storage/runs/<sweep>/  sweep.yaml sweep.json recipe.best.yaml points.jsonl  ray/  and a run's folder for each trial,
                         with trial.json
    storage/runs/<run in rounds>/  config.yaml rounds.json  and of each round n: round_<n>/, a run's folder,
                         collected/round_<n>.jsonl and mixed/round_<n>.jsonl with their manifests

What is inside checkpoints/step_<n>/ is `training/checkpoint.py`'s, inside a model's directory `model_folder.py`'s.
"""

from dataclasses import dataclass
from pathlib import Path

TRAIN_STAGE, CRITIC_STAGE, EVALUATION_STAGE = 2, 1, 3


def runs_of(storage_root: Path) -> Path:
    """Return the folder of all runs and sweeps of a storage."""
    return storage_root / "runs"


def evaluations_of(storage_root: Path) -> Path:
    """Return the folder of evaluations that belong to no run."""
    return storage_root / "evaluations"


@dataclass(frozen=True)
class StageFolder:
    """What one stage of a run leaves."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The model at the end: the policy of stage 2, the critic bundle of stage 1."""
        return self.path / "final"

    @property
    def stage_result(self) -> Path:
        """How the stage ended: what it found out of the critic, the hash of its policy."""
        return self.path / "stage_result.json"

    @property
    def failure(self) -> Path:
        """Why a rank gave up, where it did."""
        return self.path / "failure.txt"

    @property
    def snapshots(self) -> Path:
        """Published versions of the critic, a folder for each attempt."""
        return self.path / "snapshots"

    @property
    def kept_reports(self) -> Path:
        """Metrics of the steps since the checkpoint before."""
        return self.path / "reports_of_checkpoint.json"

    @property
    def token_evidence(self) -> Path:
        return self.path / "token_evidence.json"


@dataclass(frozen=True)
class RunFolder(StageFolder):
    """A run's folder, storage/runs/<run>; stage 2 leaves its files in it directly."""

    @property
    def critic(self) -> StageFolder:
        """What stage 1 leaves."""
        return StageFolder(self.path / "critic")

    def stage(self, stage: int) -> StageFolder:
        """Return what a stage that trains leaves."""
        return self.critic if stage == CRITIC_STAGE else self

    def plan(self, stage: int) -> Path:
        """Return the facts of a stage's plan; `plan_arrays` lie beside them."""
        return self.path / f"{_prefix(stage)}plan.json"

    def plan_arrays(self, stage: int) -> Path:
        return self.path / f"{_prefix(stage)}plan.npz"

    @property
    def config(self) -> Path:
        """The resolved configuration; a folder that holds one is a run's."""
        return self.path / "config.yaml"

    @property
    def start(self) -> Path:
        """What stage 2 started from and weights with."""
        return self.path / "start.json"

    @property
    def decisions(self) -> Path:
        """What was decided while the run ran."""
        return self.path / "decisions.json"

    @property
    def places(self) -> Path:
        """Where the processes computed, a line for each start of one; `decisions` are told with them."""
        return self.path / "places.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """How the run ended."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def evaluations(self) -> Path:
        return self.path / "eval"

    @property
    def step_evaluations(self) -> Path:
        """Evaluations of the policy while it trained: a folder for each set of problems and settings, in it steps."""
        return self.path / "eval_steps"

    @property
    def evaluated_snapshots(self) -> Path:
        """Policies that wait for their evaluation while training goes on, a folder for each attempt."""
        return self.path / "snapshots_evaluated"

    @property
    def exported(self) -> Path:
        """Models made of checkpoints for an evaluation, a folder for each step."""
        return self.path / "exported"

    @property
    def critic_audit(self) -> Path:
        """What the critic says of prefixes, beside how their continuations end."""
        return self.path / "audit.json"

    @property
    def stop_request(self) -> Path:
        """Its presence asks the ranks to checkpoint and stop."""
        return self.path / "stop_requested"

    @property
    def mlflow_run_id(self) -> Path:
        return self.path / "mlflow_run_id"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """What Weights & Biases keeps of the run, here or before it is sent."""
        return self.path / "wandb"

    @property
    def wandb_run_id(self) -> Path:
        return self.path / "wandb_run_id"

    @property
    def trackio_run_id(self) -> Path:
        return self.path / "trackio_run_id"

    @property
    def processes(self) -> Path:
        """A file for each process that runs or ran."""
        return self.path / "processes"

    @property
    def stacks(self) -> Path:
        """Python stacks of processes that were asked for them."""
        return self.path / "stacks"

    @property
    def logs(self) -> Path:
        """What each process has said, a file for each."""
        return self.path / "logs"

    @property
    def ray(self) -> Path:
        """What Ray Train and Ray Tune keep."""
        return self.path / "ray"

    @property
    def frozen_critic(self) -> Path:
        """The one version of a critic that does not follow the policy."""
        return self.path / "snapshots_frozen"

    @property
    def is_begun(self) -> bool:
        """Whether anything has been trained or evaluated in it."""
        parts = (self.metrics, self.checkpoints, self.critic.path, self.evaluations)
        return any(part.exists() for part in parts)

    @property
    def trial(self) -> Path:
        """How a trial of a sweep ended."""
        return self.path / "trial.json"


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder, storage/runs/<sweep>; each of its trials has a run's folder in it."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def result(self) -> Path:
        return self.path / "sweep.json"

    @property
    def best_recipe(self) -> Path:
        return self.path / "recipe.best.yaml"

    @property
    def points(self) -> Path:
        """The points that a search has proposed, one a line."""
        return self.path / "points.jsonl"

    @property
    def mlflow_run_id(self) -> Path:
        return RunFolder(self.path).mlflow_run_id

    @property
    def stop_request(self) -> Path:
        return RunFolder(self.path).stop_request

    @property
    def ray(self) -> Path:
        return RunFolder(self.path).ray

    def has_run(self) -> bool:
        """Whether a trial or a shared critic has begun."""
        return any(RunFolder(each).config.exists() for each in self.path.glob("*"))


@dataclass(frozen=True)
class RoundsFolder:
    """The folder of a run in rounds, storage/runs/<run>; each round has a run's folder in it."""

    path: Path

    @property
    def record(self) -> Path:
        """The rounds that are done: a folder that holds it is that of a run in rounds."""
        return self.path / "rounds.json"

    @property
    def collected(self) -> Path:
        """The rows of each round, with their manifests and answers."""
        return self.path / "collected"

    @property
    def mixed(self) -> Path:
        """What each round trains on, with its manifest and its index."""
        return self.path / "mixed"

    def name_of(self, number: int) -> str:
        """Return what a round is called, as the folder of its run."""
        return f"round_{number}"

    def run(self, number: int) -> RunFolder:
        """Return the run of a round."""
        return RunFolder(self.path / self.name_of(number))

    def rows(self, number: int) -> Path:
        """Return the rows that a round has collected."""
        return self.collected / f"{self.name_of(number)}.jsonl"

    def train_file(self, number: int) -> Path:
        """Return the rows that a round trains on."""
        return self.mixed / f"{self.name_of(number)}.jsonl"

    @property
    def is_begun(self) -> bool:
        """Whether anything has been collected or trained in it."""
        return self.collected.exists() or any(self.path.glob(self.name_of(0)))


def _prefix(stage: int) -> str:
    return f"stage{stage}_" if stage == CRITIC_STAGE else ""
