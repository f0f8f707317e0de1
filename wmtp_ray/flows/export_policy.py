"""From a checkpoint of a run to a model directory in Meta's layout: shards joined, adapters merged.

One process, no process group, no Ray. The checkpoint stays as it is.
"""

from pathlib import Path

from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import PARAMS, write_policy
from wmtp_ray.config.load import load_resolved
from wmtp_ray.errors import ArtifactError
from wmtp_ray.training.checkpoint import find_damage, latest_checkpoint, list_checkpoints, step_of
from wmtp_ray.training.stored_tensors import stored_form, whole_policy_tensors


def export_policy(run_dir: Path, step: int | None, out: Path) -> str:
    """Write the policy after `step` steps (None: the newest whole checkpoint) to `out`; return its tensors' SHA-256.

    The hash is `policy_sha256` of result.json when the step is the run's last. `out` gets params.json,
    model.safetensors and the value head. Raises ArtifactError when there is no such whole checkpoint, when `out` holds
    a model already, or when the model that adapters were trained on has changed.
    """
    if (out / PARAMS).exists():
        raise ArtifactError(f"{out} holds a model already; give an empty directory, or remove it first")
    checkpoint = _checkpoint(run_dir / "checkpoints", step)
    config = load_resolved(run_dir / "config.yaml")
    args, spec = stored_form(checkpoint)
    tensors = whole_policy_tensors(checkpoint, base=config.model.path)
    write_policy(out, args, spec, tensors)
    return tensors_sha256(tensors)


def _checkpoint(root: Path, step: int | None) -> Path:
    found = {step_of(path): path for path in list_checkpoints(root)}
    chosen = latest_checkpoint(root) if step is None else found.get(step)
    if chosen is None:
        wanted = "no whole checkpoint" if step is None else f"no checkpoint of step {step}"
        raise ArtifactError(f"{root} has {wanted}; there are those of the steps {sorted(found)}")
    if step is not None and (damage := find_damage(chosen)) is not None:
        raise ArtifactError(
            f"The checkpoint {chosen} is damaged ({damage}); there are those of the steps {sorted(found)}"
        )
    return chosen
