"""The sections for where a run works, how long it waits, and what is shown of it. Holds no values."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wmtp_ray.config.effects import EVALUATION, MACHINE, PLAN, STAGE_2, TRAINING, setting
from wmtp_ray.config.section import Count, Positive, Seconds, Section

SinkName = Literal["mlflow", "tensorboard", "wandb", "trackio"]
WandbMode = Literal["online", "offline"]
GpuType = Literal["A10-24GB", "L4-24GB", "L40S-48GB", "A100-40GB", "A100-80GB", "H100-80GB", "H200-141GB"]


class ClusterConfig(Section):
    """What the run asks of Ray."""

    num_cpus: Count | None = setting(
        PLAN | TRAINING | EVALUATION | MACHINE, "CPUs a local ray.init() declares; None: what Ray finds."
    )
    cpus_per_worker: Positive = setting(
        PLAN | TRAINING | MACHINE, "CPU share of a rank; leave some for data, critic and driver."
    )
    gpus_per_worker: Annotated[float, Field(ge=0.0)] = setting(PLAN | TRAINING | MACHINE, "GPU share of a rank.")
    cpus_per_critic: Annotated[float, Field(ge=0.0)] = setting(
        PLAN | STAGE_2 | MACHINE, "CPU share of a critic or reference actor."
    )
    gpus_per_critic: Annotated[float, Field(ge=0.0)] = setting(
        PLAN | STAGE_2 | MACHINE, "GPU share of a critic or reference actor."
    )
    cpus_per_decoder: Annotated[float, Field(ge=0.0)] = setting(
        PLAN | EVALUATION | MACHINE, "CPU share of a decoder in stage 3."
    )
    gpus_per_decoder: Annotated[float, Field(ge=0.0)] = setting(
        PLAN | EVALUATION | MACHINE, "GPU share of a decoder in stage 3."
    )
    cpus_per_judge: Annotated[float, Field(ge=0.0)] = setting(
        PLAN | EVALUATION | MACHINE, "CPU share of a judge in stage 3."
    )
    cpus_per_evaluator: Annotated[float, Field(ge=0.0)] = setting(
        PLAN | EVALUATION | MACHINE, "CPU share of the actor of evaluation.every_steps; its priority is the lowest."
    )
    gpus_per_evaluator: Annotated[float, Field(ge=0.0)] = setting(
        PLAN | EVALUATION | MACHINE, "GPU share of the actor of evaluation.every_steps; 0: it decodes on CPUs."
    )
    threads_per_worker: Count = setting(
        TRAINING | EVALUATION | MACHINE, "torch threads of a rank; part of what makes a run repeatable."
    )
    threads_per_critic: Count = setting(STAGE_2 | MACHINE, "torch threads of a critic or reference actor.")
    gpu_type: GpuType | None = setting(
        PLAN | MACHINE, "GPUs that the run is estimated for and must fit; None: not known."
    )


class DeadlinesConfig(Section):
    """Seconds until a wait reports what it waits for, dumps all stacks, and retries or fails: docs/faults.md."""

    data_s: Seconds = setting(TRAINING | MACHINE, "A rank waits for its next rows.")
    score_s: Seconds = setting(
        STAGE_2 | MACHINE, "A rank waits for a score, then restarts the scorer; a critic waits for its version."
    )
    publish_s: Seconds = setting(STAGE_2 | MACHINE, "Rank 0 writes a version of the critic.")
    checkpoint_s: Seconds = setting(TRAINING | MACHINE, "A rank writes its part of a checkpoint.")
    collective_s: Seconds = setting(
        TRAINING | MACHINE, "A collective of the ranks; above data_s and score_s, in which others may be meanwhile."
    )
    step_s: Seconds = setting(
        TRAINING | MACHINE,
        "The driver waits for a heartbeat of the ranks; above all other deadlines, which such a wait may contain.",
    )
    start_s: Seconds = setting(
        TRAINING | EVALUATION | MACHINE, "The ranks are placed and start; a scorer loads its model."
    )
    stop_s: Seconds = setting(TRAINING | MACHINE, "The ranks checkpoint after the driver was asked to stop.")
    tracking_s: Seconds = setting(TRAINING | EVALUATION | MACHINE, "The metrics actor answers; it flushes at the end.")
    evaluation_s: Seconds = setting(EVALUATION | MACHINE, "Stage 3 waits for the next answer or verdict.")


class TrackingConfig(Section):
    """Where metrics go beside metrics.jsonl."""

    sinks: tuple[SinkName, ...] = setting(
        PLAN | TRAINING | EVALUATION | MACHINE, "Trackers that get every number as well; their packages are extras."
    )
    mlflow: bool = setting(
        PLAN | TRAINING | EVALUATION | MACHINE, "Log to MLflow as well; false leaves it out of `sinks`."
    )
    mlflow_uri: str | None = setting(TRAINING | EVALUATION | MACHINE, "None: an sqlite file in storage_root.")
    wandb_mode: WandbMode | None = setting(
        TRAINING | EVALUATION | MACHINE, "Of Weights & Biases; None: as WANDB_MODE says, else online."
    )
    experiment: str = setting(
        TRAINING | EVALUATION | MACHINE,
        "MLflow experiment; the project of the other trackers.",
        min_length=1,
        max_length=500,
        expected="text of 1 to 500 characters",
    )
    progress: bool = setting(TRAINING | EVALUATION | MACHINE, "Draw the progress line.")

    @property
    def uses_mlflow(self) -> bool:
        """Whether MLflow gets the run's numbers."""
        return self.mlflow and "mlflow" in self.sinks

    @property
    def other_sinks(self) -> tuple[SinkName, ...]:
        """The trackers beside MLflow that get the run's numbers."""
        return tuple(name for name in self.sinks if name != "mlflow")

    @property
    def used_sinks(self) -> tuple[SinkName, ...]:
        """All trackers that get the run's numbers."""
        return (*(("mlflow",) if self.uses_mlflow else ()), *self.other_sinks)

    @model_validator(mode="after")
    def _every_sink_is_named_once(self) -> Self:
        if twice := [name for name in dict.fromkeys(self.sinks) if self.sinks.count(name) > 1]:
            raise ValueError(f"sinks names {', '.join(twice)} twice; name every tracker once")
        return self

    @model_validator(mode="after")
    def _uri_means_the_same_everywhere(self) -> Self:
        uri = self.mlflow_uri or ""
        if uri.startswith(("file:", "/", ".")) or (uri.startswith("sqlite:") and not uri.startswith("sqlite:////")):
            raise ValueError(
                f"mlflow_uri={uri} is a relative file or MLflow's retired file store; give an absolute "
                "sqlite:////DIR/mlflow.db, a server's http://HOST:PORT, or null for a file in storage_root"
            )
        return self
