from datetime import datetime

import pytest

from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.other_names import OTHER_NAMES
from wmtp_ray.config.schema_nodes import run_schema
from wmtp_ray.errors import ConfigError


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(parse_arguments(["recipe=verifiable", *words]), now=datetime(2026, 1, 1))
    return str(caught.value)


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_every_target_is_a_key_that_takes_its_value(name):
    for target in OTHER_NAMES[name].targets:
        key, has_value, value = target.partition("=")
        node = run_schema().node_at(tuple(key.split(".")))
        assert node is not None, target
        assert not has_value or value in node["enum"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("train.lr=1e-4", "train.learning_rate (Peak learning rate of AdamW) or critic_stage.learning_rate (Peak"),
        ("lr=1e-4", "train.learning_rate (Peak learning rate of AdamW)"),
        ("optimizer.lr=1e-4", "train.learning_rate (Peak learning rate of AdamW)"),
        ("critic_stage.lr=1e-4", "critic_stage.learning_rate (Peak learning rate) or train.learning_rate"),
        ("train.learning-rate=1", "train.learning_rate"),
        ("batch_size=8", "train.batch_rows (Rows of an optimizer step, all ranks together) or train.batch_sequences"),
        ("train.per_device_train_batch_size=8", "train.micro_batch_tokens"),
        ("num_train_epochs=3", "train.epochs ("),
        ("bf16=true", "train.dtype=bfloat16 ("),
        ("train.fp16=true", "bfloat16 on CUDA only)? Here: float32 or bfloat16; there is no float16"),
        ("precision=bf16-mixed", "train.dtype ("),
        ("max_iters=10", "train.max_steps (Upper bound"),
        ("train.warmup_steps=10", "(Share of the steps that warm up linearly)? Here: a share of the steps"),
        ("train.seed=1", "seed (Base seed of everything random that has none of its own)"),
        ("model_name_or_path=x", "model.path (Directory in Meta's layout"),
        ("output_dir=x", "storage_root (Absolute home of models, datasets and runs) or run_name"),
        ("train.gradient_accumulation_steps=2", "train.batch_rows ("),
        ("gradient_checkpointing=true", "model.activation_checkpointing ("),
        ("lora_r=8", "model.lora ("),
        ("lora.r=8", "model.lora ("),
        ("train.max_seq_length=8", "data.max_tokens (Longer rows are dropped and counted, never cut)"),
        ("nproc_per_node=2", "train.num_workers (Ranks) or cluster.gpus_per_worker"),
        ("wandb.project=x", "tracking.experiment (MLflow experiment; the project of the other trackers)"),
        ("wandb.mode=x", "tracking.wandb_mode (Of Weights & Biases; None: as WANDB_MODE says, else online)"),
        ("train.report_to=wandb", "tracking.sinks (Trackers that get every number as well"),
    ],
)  # fmt: skip
def test_a_name_of_other_trainers_suggests_what_it_means(word, meant):
    message = refused(word)
    assert f"{word.partition('=')[0]}: there is no such key; did you mean " in message
    assert meant in message


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--lr=1e-4", "did you mean train.learning_rate=1e-4?"),
        ("--batch-size", "did you mean train.batch_rows=VALUE?"),
        ("--bf16", "did you mean train.dtype=bfloat16?"),
        ("--output_dir=x", "did you mean storage_root=x?"),
    ],
)
def test_a_flag_of_other_trainers_suggests_the_key(word, meant):
    assert meant in refused(word)
