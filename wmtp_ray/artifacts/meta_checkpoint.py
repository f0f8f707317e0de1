"""Models on disk, in Meta's layout: read strictly, write whole. It trains nothing and downloads nothing.

Of a flat directory (`model_folder.py` has both layouts):

    <directory>/params.json              Meta's keys; `ModelSpec` reads them
                model.safetensors        the weights; preferred when both exist
                consolidated.pth         the weights as Meta ships them
                value_head.safetensors   the value head, if any; of an ensemble all heads, and trunks of their own
                value_head.json          its `ValueSpec`

Each file is replaced atomically. A directory that must be whole or absent (a checkpoint, a snapshot) is written inside
`manifest.atomic_directory`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vendor.meta_llama.model import Transformer
from vendor.model_args import ModelArgs
from wmtp_ray.artifacts.stored_weights import read_tensors as read_tensors
from wmtp_ray.artifacts.streamed_tensors import TensorForm
from wmtp_ray.durable_files import atomic_file, atomic_write
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.spec import ModelSpec, params_bytes
from wmtp_ray.model.value_ensemble import ValueEnsemble, build_critic, ensemble_on
from wmtp_ray.model.value_model import HeadEnsemble, ValueHead, ValueModel, build_value_head
from wmtp_ray.model.value_spec import ValueSpec, require_value_path
from wmtp_ray.model_folder import PARAMS, VALUE_HEAD, VALUE_SPEC, ModelFolder
from wmtp_ray.saved_records import read_record, write_record

TRANSFORMER, HEAD = "transformer.", "value_head."  # prefixes of a policy's tensors
NAMES_SHOWN = 5  # of each kind of difference between a file and the model

Shape = tuple[int, ...]


def load_transformer(directory: Path, *, dtype: torch.dtype = torch.float32) -> Transformer:
    """Load a model onto the CPU, converted to `dtype`, tensor by tensor.

    ArtifactError names what is missing, unexpected or of another shape; nothing is skipped, nothing is filled in.
    """
    with torch.device("meta"):
        transformer = Transformer(ModelSpec.read(directory))
    path = weights_file(directory)
    _assign(transformer, read_tensors(path), path, dtype)
    return transformer


def weights_file(directory: Path) -> Path:
    """Return the file that a model's weights are read from; ArtifactError when there is none."""
    folder = ModelFolder(directory)
    found = folder.find_weights()
    if found is not None:
        return found
    names = [folder.name_of(path) for path in folder.weights_choices]
    found_no = f"neither {names[0]} nor {names[1]}" if len(names) > 1 else f"no {names[0]}"
    raise ArtifactError(
        f"{directory} holds {found_no}, expected the weights of {folder.name_of(folder.params)}; put them there"
    )


def save_transformer(directory: Path, transformer: Transformer, *, dtype: torch.dtype = torch.float32) -> None:
    """Write params.json and model.safetensors in `dtype`; other files of the directory stay."""
    write_params(directory, transformer.args)
    write_tensors(ModelFolder(directory).weights, transformer.state_dict(), dtype)


def save_policy(directory: Path, policy: Policy, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a policy: its transformer in `dtype`, adapters merged, its value head in float32, and the head's form."""
    state = policy.merged(policy.state_dict())
    write_policy(directory, policy.transformer.args, policy.spec, state, dtype=dtype)


def write_policy(
    directory: Path,
    args: ModelArgs,
    spec: ValueSpec,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a policy from its tensors alone, named as in its `state_dict` and without adapters."""
    describe_policy(directory, args, spec)
    write_tensors(ModelFolder(directory).weights, without_prefix(tensors, TRANSFORMER), dtype)
    write_tensors(ModelFolder(directory).value_head, without_prefix(tensors, HEAD), torch.float32)


def describe_policy(directory: Path, args: ModelArgs, spec: ValueSpec) -> None:
    """Write a policy's description without its tensors: params.json and value_head.json."""
    write_params(directory, args)
    write_record(ModelFolder(directory).value_spec, spec.record())


def policy_tensors(directory: Path) -> dict[str, Tensor]:
    """Map the tensors of a stored policy into memory, named as in its `state_dict`."""
    transformer = read_tensors(weights_file(directory))
    return _with_prefix(transformer, TRANSFORMER) | _with_prefix(read_tensors(ModelFolder(directory).value_head), HEAD)


def load_value_model(directory: Path, spec: ValueSpec) -> ValueModel:
    """Load the part of a model that values need, float32 on the CPU, with fresh value heads (V = 0)."""
    with torch.device("meta"):
        model = ValueModel(ModelSpec.read(directory), spec)
    fresh = build_value_head(model.args.dim, spec).state_dict(prefix=HEAD)
    path = weights_file(directory)
    available = read_tensors(path) | fresh
    _assign(model, {name: available[name] for name in model.state_dict() if name in available}, path, torch.float32)
    return model


def load_value_head(directory: Path, spec: ValueSpec) -> ValueHead | HeadEnsemble | ValueEnsemble:
    """Load the value head of a stored policy and nothing else of it; ArtifactError as `load_policy`.

    It is that of all members, with their trunks where these are their own: see `Policy.value_head`.
    """
    stored = stored_value_spec(directory, spec)
    if (stored or spec).trunks == "own":
        return _load_ensemble(directory, stored or spec, is_stored=stored is not None)
    head = build_value_head(ModelSpec.read(directory).dim, stored or spec)
    if stored is not None:
        _assign_head(head, directory)
    return head


def _load_ensemble(directory: Path, spec: ValueSpec, *, is_stored: bool) -> ValueEnsemble:
    """Load members with trunks of their own; where none are stored they begin with the model's trunk."""
    if not is_stored:
        return ensemble_on(load_transformer(directory), spec)
    with torch.device("meta"):
        ensemble = ValueEnsemble(ModelSpec.read(directory), spec)
    _assign_head(ensemble, directory)
    return ensemble


def load_value_path(directory: Path, spec: ValueSpec) -> ValueModel | ValueEnsemble:
    """Load a critic: the value path of a stored policy, float32 on the CPU; ArtifactError as `load_policy`."""
    spec = stored_value_spec(directory, spec) or spec
    head = load_value_head(directory, spec)
    if isinstance(head, ValueEnsemble):
        return head
    model = load_value_model(directory, spec)
    model.value_head.load_state_dict(head.state_dict())
    return model


def open_value_path(directory: Path, spec: ValueSpec) -> tuple[dict[str, TensorForm], Callable[[str], Tensor]]:
    """Describe what `load_value_path` would load, without loading it: the form of each tensor, and a reader by name.

    The reader maps the weights anew for each tensor, so that the pages of those read before do not stay in memory.
    ArtifactError as `load_policy`.
    """
    spec = stored_value_spec(directory, spec) or spec
    with torch.device("meta"):
        expected = build_critic(ModelSpec.read(directory), spec).state_dict()
    if spec.trunks == "own":  # the trunks lie with the heads
        head, path = {}, ModelFolder(directory).value_head
    else:
        head, path = load_value_head(directory, spec).state_dict(prefix=HEAD), weights_file(directory)
    stored = _shapes(read_tensors(path) | head)
    _require_shapes({name: shape for name, shape in stored.items() if name in expected}, _shapes(expected), path)
    forms = {name: TensorForm(torch.float32, tuple(tensor.shape)) for name, tensor in expected.items()}
    return forms, lambda name: head[name] if name in head else read_tensors(path)[name]


def load_policy(
    directory: Path,
    *,
    spec: ValueSpec | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Policy:
    """Load a transformer with its value head, or attach a fresh head (V = 0) as `spec` says where none is stored.

    `generator` draws a fresh head's hidden layer. ArtifactError when the stored specification is not `spec`, when
    there is neither, or when head and specification do not lie together.
    """
    stored = stored_value_spec(directory, spec)
    chosen = stored or spec
    assert chosen is not None
    policy = Policy(load_transformer(directory, dtype=dtype), chosen)
    if stored is not None:
        _assign_head(policy.value_head, directory)
        return policy
    for head in policy.value_heads:
        head.init_weights(generator)
    return policy


def stored_value_spec(directory: Path, spec: ValueSpec | None) -> ValueSpec | None:
    """Return the stored value path, None where there is none; ArtifactError where it is not the one asked for.

    Of an ensemble, whose trunks the members read is known from here alone.
    """
    stored = _read_value_spec(directory)
    if stored is None and spec is None:
        raise ArtifactError(f"{directory} has no value head ({VALUE_SPEC}); run stage 1, or say which head to attach.")
    if stored is not None and spec is not None:
        require_value_path(directory, stored, spec)
    return stored


def _read_value_spec(directory: Path) -> ValueSpec | None:
    """Return the stored specification, None where the directory has no value head at all."""
    folder = ModelFolder(directory)
    present = [path for path in (folder.value_spec, folder.value_head) if path.exists()]
    if not present:
        return None
    if len(present) == 1:
        raise ArtifactError(
            f"{directory} holds {present[0].name} alone; {VALUE_SPEC} and {VALUE_HEAD} belong together."
        )
    return described_value_spec(directory)


def described_value_spec(directory: Path) -> ValueSpec:
    """Read value_head.json, whether or not the head's tensors lie beside it."""
    remedy = "restore it from the run that trained the head, or run stage 1 again"
    return read_record(ModelFolder(directory).value_spec, ValueSpec, remedy)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write tensors of any device as safetensors in `dtype`."""
    with atomic_file(path) as temporary:
        save_file({name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in tensors.items()}, temporary)


def write_params(directory: Path, args: ModelArgs) -> None:
    """Write params.json."""
    atomic_write(ModelFolder(directory).params, params_bytes(args))


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _assign(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Give the module copies of the tensors in `dtype`; ArtifactError when names or shapes differ."""
    expected = module.state_dict()
    _require_shapes(_shapes(tensors), _shapes(expected), path)
    copies = {name: tensors[name].to(dtype=dtype, copy=True) for name in expected}
    module.load_state_dict(copies, strict=True, assign=True)


def _require_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], path: Path) -> None:
    if differences := shape_differences(found, expected):
        raise ArtifactError(f"{path} does not fit {PARAMS} beside it. {differences}. Use the two files of one model.")


def _assign_head(head: nn.Module, directory: Path) -> None:
    path = ModelFolder(directory).value_head
    _assign(head, read_tensors(path), path, torch.float32)


def shape_differences(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    """Name the tensors that are missing, unexpected or of another shape; an empty text where there are none."""
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    return "; ".join(f"{kind}: {_listed(names)}" for kind, names in differences.items() if names)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
