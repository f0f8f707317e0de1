"""From a checkpoint of a run to a model directory, shards joined and adapters merged.

In Meta's layout, or horizon 1 alone in Hugging Face's, which a model directory in Meta's layout can become as well.

One process, no process group, no Ray. The checkpoint stays as it is.
"""

from pathlib import Path

import torch
from torch import Tensor

from wmtp_ray.artifacts.hf.config_file import architecture_of
from wmtp_ray.artifacts.hf.export_model import export_model
from wmtp_ray.artifacts.hf.plain_model import require_forms
from wmtp_ray.artifacts.hf.tokenizer_files import find_tokenizer
from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import (
    TRANSFORMER,
    read_tensors,
    weights_file,
    without_prefix,
    write_policy,
)
from wmtp_ray.artifacts.streamed_tensors import forms_of
from wmtp_ray.config.load import load_resolved
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import TOKENIZER_JSON, TOKENIZER_MODEL, ModelFolder
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.training_record import record_of_run, write_training
from wmtp_ray.training.best_checkpoint import WantedStep, wanted_checkpoint
from wmtp_ray.training.checkpoint import step_of
from wmtp_ray.training.stored_tensors import stored_form, whole_policy_tensors


def export_policy(run_dir: Path, step: WantedStep, out: Path) -> str:
    """Write the policy after `step` steps (None: of the newest whole checkpoint; best: of the best) to `out`.

    Returns its tensors' SHA-256.

    The hash is `policy_sha256` of result.json when the step is the run's last. `out` gets params.json,
    model.safetensors, the value head and training.json, which says how it was trained. Raises ArtifactError when there
    is no such whole checkpoint, when `out` holds a model already, or when the model that adapters were trained on has
    changed.
    """
    if ModelFolder(out).params.exists():
        raise ArtifactError(f"{out} holds a model already; give an empty directory, or remove it first")
    checkpoint = wanted_checkpoint(run_dir, step)
    config = load_resolved(RunFolder(run_dir).config)
    args, spec = stored_form(checkpoint)
    tensors = whole_policy_tensors(checkpoint, base=config.model.path)
    write_policy(out, args, spec, tensors)
    write_training(out, record_of_run(run_dir, step_of(checkpoint)))
    return tensors_sha256(tensors)


def export_hf(
    source: Path,
    step: WantedStep,
    out: Path,
    *,
    tokenizer: Path | None,
    dtype: torch.dtype | None,
    with_heads: bool = False,
) -> str:
    """Write horizon 1 of a run's policy, or of a model directory, for transformers (see `export_model`).

    `with_heads` adds the heads of the other horizons.

    Returns the name of the class that loads it.
    `step` chooses a checkpoint of a run as in `export_policy`. `tokenizer` None: the run's, or the one beside the
    model. `dtype` None keeps the tensors' own. Raises ArtifactError where there is no such checkpoint, model or
    tokenizer.
    """
    is_run = RunFolder(source).config.exists()
    if step is not None and not is_run:
        raise ArtifactError(f"{source} is no run (it has no config.yaml), so it has no step {step}; leave --step out")
    args, tensors, own_tokenizer = _of_run(source, step) if is_run else _of_directory(source)
    chosen = tokenizer or own_tokenizer
    if chosen is None:
        raise ArtifactError(f"{source} holds no {TOKENIZER_MODEL} or {TOKENIZER_JSON}; give one with --tokenizer")
    export_model(args, tensors, chosen, out, dtype=dtype, with_heads=with_heads)
    return architecture_of(args)


def _of_run(run_dir: Path, step: WantedStep) -> tuple[ModelSpec, dict[str, Tensor], Path | None]:
    checkpoint = wanted_checkpoint(run_dir, step)
    config = load_resolved(RunFolder(run_dir).config)
    args, _ = stored_form(checkpoint)
    policy = whole_policy_tensors(checkpoint, base=config.model.path)
    return args, without_prefix(policy, TRANSFORMER), config.tokenizer.path


def _of_directory(directory: Path) -> tuple[ModelSpec, dict[str, Tensor], Path | None]:
    args, tensors = ModelSpec.read(directory), read_tensors(weights_file(directory))
    require_forms(directory, args, forms_of(tensors))
    return args, tensors, find_tokenizer(ModelFolder(directory).tokenizer)
