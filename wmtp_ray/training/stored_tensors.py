"""Weights and optimizer of a checkpoint as named tensors: whole files by one rank, or shards by all of them.

    weights/<name>             `Policy.learned_state`: everything, or adapters and value head
    moments/<name>/<moment>    AdamW's state of the parameter `name`

    policy/          params.json, value_head.json; with adapters adapters.json
                     whole: model.safetensors or adapters.safetensors, value_head.safetensors
    optimizer.safetensors   whole
    shards/          sharded: the files of torch.distributed.checkpoint, one a rank

Either form is read into either kind of policy, on any number of ranks: names and shapes are those of the whole. The
optimizer's hyperparameters are not stored, the configuration has them. Names of directories, atomicity and damage
are `checkpoint.py`'s.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.tensor import DTensor, distribute_tensor

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import (
    HEAD,
    TRANSFORMER,
    describe_policy,
    described_value_spec,
    policy_tensors,
    read_tensors,
    weights_file,
    write_policy,
    write_tensors,
)
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.lora import AdapterSpec, adapter_tensors, merge_adapters
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.saved_records import read_record, write_record

SHARDS = "shards"
_POLICY = "policy"
_OPTIMIZER = "optimizer.safetensors"
_WEIGHTS, _MOMENTS = "weights/", "moments/"


def is_sharded(policy: Policy) -> bool:
    """Whether each rank holds a part of the policy only (FSDP2)."""
    return any(isinstance(parameter, DTensor) for parameter in policy.parameters())


def describe(checkpoint: Path, policy: Policy) -> None:
    """Write what tensors are of: the model's shape, the value path, the adapters."""
    describe_policy(checkpoint / _POLICY, policy.transformer.args, policy.spec)
    if policy.adapters is not None:
        write_record(ModelFolder(checkpoint / _POLICY).lora_spec, policy.adapters)


def write_whole(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Write weights and moments that this rank holds whole."""
    directory = checkpoint / _POLICY
    state = policy.learned_state()
    if policy.adapters is None:
        write_policy(directory, policy.transformer.args, policy.spec, state)
    else:
        head = policy.value_head.state_dict()
        write_tensors(ModelFolder(directory).lora_weights, adapter_tensors(state), torch.float32)
        write_tensors(ModelFolder(directory).value_head, head, torch.float32)
    write_tensors(checkpoint / _OPTIMIZER, _moments(policy, optimizer), torch.float32)


def write_shards(directory: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Write this rank's part of weights and moments. Every rank calls it; it returns when all parts are on disk."""
    tensors = _prefixed(policy.learned_state(), _WEIGHTS) | _moments(policy, optimizer)
    save_shards(tensors, storage_writer=FileSystemWriter(directory))


@torch.no_grad()
def read_into(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Load weights and moments in place. Every rank calls it. ArtifactError when they are of another policy."""
    _require_fit(checkpoint / _POLICY, policy)
    parameters = dict(policy.named_parameters())
    targets = _prefixed(policy.learned_state(), _WEIGHTS)
    optimizer.state.clear()
    for key, shape in _stored_shapes(checkpoint).items():
        if key.startswith(_MOMENTS):
            name, _, moment = key.removeprefix(_MOMENTS).rpartition("/")
            parameter = parameters[name]
            like_parameter = shape == parameter.shape
            targets[key] = torch.zeros_like(parameter) if like_parameter else torch.zeros(shape)
            optimizer.state[parameter][moment] = targets[key]
    _fill(targets, checkpoint)


def stored_form(checkpoint: Path) -> tuple[ModelSpec, ValueSpec]:
    """Return the shape of a checkpoint's model and its value path."""
    return ModelSpec.read(checkpoint / _POLICY), described_value_spec(checkpoint / _POLICY)


def whole_policy_tensors(checkpoint: Path, base: Path) -> dict[str, Tensor]:
    """Return a checkpoint's policy as one process sees it whole, adapters merged into the model in `base`.

    Names as in `Policy.state_dict`, float32 on the CPU; needs no process group.
    """
    shapes = _stored_shapes(checkpoint)
    targets = {key: torch.zeros(shape) for key, shape in shapes.items() if key.startswith(_WEIGHTS)}
    _fill(targets, checkpoint)
    weights = {key.removeprefix(_WEIGHTS): tensor for key, tensor in targets.items()}
    spec = _stored_adapters(checkpoint / _POLICY)
    if spec is None:
        return weights
    _require_base(spec, file_sha256(weights_file(base)), str(base))
    transformer = {TRANSFORMER + name: tensor.float() for name, tensor in read_tensors(weights_file(base)).items()}
    head = {name: tensor for name, tensor in weights.items() if name.startswith(HEAD)}
    return merge_adapters(transformer, adapter_tensors(weights), spec.scale) | head


def _moments(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{_MOMENTS}{name}/{moment}": tensor
        for name, parameter in policy.named_parameters()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def _stored_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    if (checkpoint / SHARDS).is_dir():
        stored = FileSystemReader(checkpoint / SHARDS).read_metadata().state_dict_metadata
        return {key: entry.size for key, entry in stored.items() if isinstance(entry, TensorStorageMetadata)}
    return {key: tensor.shape for key, tensor in _whole_tensors(checkpoint).items()}


def _whole_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Map whole files into memory; a tensor is read when it is copied."""
    directory = checkpoint / _POLICY
    if _stored_adapters(directory) is None:
        weights = policy_tensors(directory)
    else:
        folder = ModelFolder(directory)
        head = read_tensors(folder.value_head)
        weights = read_tensors(folder.lora_weights) | {HEAD + name: tensor for name, tensor in head.items()}
    return _prefixed(weights, _WEIGHTS) | read_tensors(checkpoint / _OPTIMIZER)


def _fill(targets: dict[str, Tensor], checkpoint: Path) -> None:
    """Copy stored tensors into these, whole or sharded, in place."""
    if (checkpoint / SHARDS).is_dir():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process.*")
            load_shards(targets, storage_reader=FileSystemReader(checkpoint / SHARDS))
        return
    copy_whole(targets, _whole_tensors(checkpoint))


@torch.no_grad()
def copy_whole(targets: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into those of the same names, whole or sharded, in place."""
    for key, target in targets.items():
        if isinstance(target, DTensor):
            # Each rank cuts its own part out of the file: nothing is sent.
            local = distribute_tensor(
                whole[key].to(target.device), target.device_mesh, target.placements, src_data_rank=None
            )
            target.copy_(local)
        else:
            target.copy_(whole[key])


def _prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _stored_adapters(directory: Path) -> AdapterSpec | None:
    path = ModelFolder(directory).lora_spec
    if not path.exists():
        return None
    return read_record(path, AdapterSpec, "restore the checkpoint from a copy, or remove its folder")


def _require_fit(directory: Path, policy: Policy) -> None:
    spec = described_value_spec(directory)
    if spec != policy.spec:
        raise ArtifactError(
            f"{directory} holds a value path {spec}, the configuration wants {policy.spec}. Set critic.head, "
            "critic.value_layer and critic.features to the stored ones, or start a new run"
        )
    stored, wanted = _stored_adapters(directory), policy.adapters
    if stored is not None and wanted is not None:
        _require_base(stored, wanted.base_sha256, "model.path")
    if stored != wanted:
        raise ArtifactError(
            f"{directory} holds {_described(stored)}, the configuration wants {_described(wanted)}. Set model.lora as "
            "it was when the run started, or start a new run"
        )


def _require_base(stored: AdapterSpec, found_sha256: str, where: str) -> None:
    if stored.base_sha256 != found_sha256:
        raise ArtifactError(
            f"The adapters were trained on weights with the SHA-256 {stored.base_sha256[:12]}, those of {where} have "
            f"{found_sha256[:12]}: adapters mean nothing on another base. Set model.path to the model they began with"
        )


def _described(spec: AdapterSpec | None) -> str:
    if spec is None:
        return "all weights, no adapters"
    return f"adapters (rank {spec.rank}, alpha {spec.alpha}, targets {', '.join(spec.targets)})"
