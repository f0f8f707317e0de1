"""Generated indexes and configuration sections for the plan's tests."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from wmtp_ray.config.critic import CriticStageConfig
from wmtp_ray.config.sampling import Stage2Sampling
from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex

SCHEDULE = (
    {"epoch_range": (0.0, 0.3), "difficulty_weights": {"low": 0.7, "medium": 0.3, "high": 0.0}},
    {"epoch_range": (0.3, 0.7), "difficulty_weights": {"low": 0.3, "medium": 0.6, "high": 0.1}},
    {"epoch_range": (0.7, 1.0), "difficulty_weights": {"low": 0.1, "medium": 0.5, "high": 0.4}},
)
BINS = {"low": (1, 3), "medium": (4, 7), "high": (8, 11)}


def _make_index(
    num_rows: int = 400,
    *,
    seed: int = 0,
    num_problems: int = 12,
    difficulties: Sequence[int] | None = None,
    correct: Sequence[bool] | None = None,
    problems: Sequence[int] | None = None,
    prompt_tokens: Sequence[int] | None = None,
    response_tokens: Sequence[int] | None = None,
    languages: Sequence[int] | None = None,
    cf_ratings: Sequence[int] | None = None,
    sources: Sequence[int] | None = None,
) -> RowIndex:
    rng = np.random.default_rng(seed)

    def column(values: Sequence[int] | None, dtype: type, low: int, high: int) -> np.ndarray:
        drawn = rng.integers(low, high, num_rows)
        return drawn.astype(dtype) if values is None else np.array(values, dtype=dtype)

    def constant(values: Sequence[int] | None, dtype: type, value: int) -> np.ndarray:
        return np.full(num_rows, value, dtype=dtype) if values is None else np.array(values, dtype=dtype)

    return RowIndex(
        path="train.jsonl",
        offset_R=np.arange(num_rows, dtype=np.int64) * 100,
        num_bytes_R=np.full(num_rows, 100, dtype=np.int32),
        difficulty_R=column(difficulties, np.int16, 0, 14),
        is_correct_R=column(correct, np.bool_, 0, 2),
        problem_R=column(problems, np.int32, 0, num_problems),
        problem_names=tuple(f"{code}_A. Problem {code}" for code in range(num_problems)),
        language_R=constant(languages, np.int8, 3),
        cf_rating_R=constant(cf_ratings, np.int16, 0),
        source_R=constant(sources, np.int16, 0),
        source_names=("generated", "elsewhere"),
        prompt_tokens_R=column(prompt_tokens, np.int32, 3, 40),
        response_tokens_R=column(response_tokens, np.int32, 2, 70),
        file_fingerprint="dataset-fingerprint",
        tokenizer_hash="tokenizer-hash",
    )


def _make_sampling(**changes: object) -> Stage2Sampling:
    base = {
        "n_samples": 120,
        "max_rows_per_problem": None,
        "problem_classes": None,
        "correct_share": None,
        "curriculum_learning": True,
        "difficulty_schedule": SCHEDULE,
        "difficulty_bins": BINS,
        "seed": 7,
    }
    return Stage2Sampling.model_validate({**base, **changes})


def _make_train(*, sampling: dict[str, object] | None = None, **changes: object) -> TrainConfig:
    base = {
        "epochs": 1,
        "max_steps": None,
        "finish_correct_frac": 0.0,
        "batch_rows": 8,
        "batch_sequences": None,
        "micro_batch_tokens": 256,
        "learning_rate": 1e-3,
        "min_learning_rate_frac": 0.1,
        "warmup_frac": 0.0,
        "weight_decay": 0.0,
        "adam_betas": (0.9, 0.95),
        "max_grad_norm": 1.0,
        "value_coef": 0.5,
        "value_coef_by_source": {"policy": 0.5, "frozen": 0.0},
        "num_workers": 1,
        "parallel": "ddp",
        "reduce_gradients": "step",
        "device": "cpu",
        "dtype": "float32",
        "checkpoint_every": 10,
        "keep_checkpoints": 1,
        "keep_best_checkpoints": 0,
        "keep_best_by": "loss",
        "max_restarts": 0,
        "sampling": _make_sampling(**(sampling or {})),
    }
    return TrainConfig.model_validate({**base, **changes})


def _make_critic_stage(*, sampling: dict[str, object] | None = None, **changes: object) -> CriticStageConfig:
    drawn = {
        "n_samples": 64,
        "balance_correct": True,
        "correct_ratio": 0.5,
        "difficulty_range": (1, 11),
        "max_rows_per_problem": 16,
        "seed": 7,
    }
    base = {"epochs": 1, "max_steps": None, "batch_rows": 8, "learning_rate": 1e-3, "eval_every": 0, "patience": 3}
    return CriticStageConfig.model_validate({**base, "sampling": {**drawn, **(sampling or {})}, **changes})


def _make_data(**changes: object) -> DataConfig:
    base = {
        "train_file": "train.jsonl",
        "index_file": None,
        "valid_file": None,
        "valid_problems_frac": 0.1,
        "suffix": None,
        "policy_rows": "mixed",
        "template": "plain",
        "condition": "none",
        "languages": None,
        "difficulty_source": "raw",
        "difficulty_scales": {name: {"bins": BINS, "range": (1, 11)} for name in ("raw", "cf_rating", "quantile")},
        "max_tokens": 100,
        "on_error": "fail",
        "read_ahead_rows": 4,
    }
    return DataConfig.model_validate({**base, **changes})


@pytest.fixture(scope="session")
def make_index() -> Callable[..., RowIndex]:
    return _make_index


@pytest.fixture(scope="session")
def make_sampling() -> Callable[..., Stage2Sampling]:
    return _make_sampling


@pytest.fixture(scope="session")
def make_train() -> Callable[..., TrainConfig]:
    return _make_train


@pytest.fixture(scope="session")
def make_critic_stage() -> Callable[..., CriticStageConfig]:
    return _make_critic_stage


@pytest.fixture(scope="session")
def make_data() -> Callable[..., DataConfig]:
    return _make_data
