"""Decode with the prediction heads of this directory: `generate(..., custom_generate=DIR, trust_remote_code=True)`.

This file is copied into every export with heads and stands alone: it needs torch, safetensors and transformers 5.
A head is one more decoder layer beside the model's last one. All of them read the output of the trunk, which is what
the last layer reads; final norm and output matrix are shared. Behind a decided token, the last layer says the next one
and head k says token k + 1. One pass of the model over the newest token and these drafts says which of them hold.

Greedy: a draft holds if it is the token that the model takes there. Sampling: a draft drawn from q holds with
probability min(1, p / q), and the token in place of one that does not is drawn from max(p - q, 0), normalised, so every
token has the model's own distribution p (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1). Logits processors
(temperature, top_p, penalties, ...) make both p and q.

Rows of a batch go on in step: all keep as many drafts as hold in every row that is not finished.

Shape suffixes: B rows, T positions of a pass, K drafts, V vocabulary, D width.
"""

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils.hub import cached_file

SPEC, WEIGHTS, VERSION = "mtp_heads.json", "mtp_heads.safetensors", 1
_KNOWN_INPUTS = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}
_loaded: "weakref.WeakKeyDictionary[Any, tuple[Any, nn.ModuleList]]" = weakref.WeakKeyDictionary()


@dataclass
class DraftedOutput(GenerateDecoderOnlyOutput):
    """What `return_dict_in_generate=True` returns: as without drafts, and what the drafts gave.

    num_forwards        passes of the model, that of the prompt included
    tokens_per_forward  new tokens of a row by these passes while the row was unfinished; the mean over all rows
    num_drafted         drafts that a pass looked at, of all unfinished rows
    num_accepted        those that became tokens
    """

    num_forwards: int | None = None
    tokens_per_forward: float | None = None
    num_drafted: int | None = None
    num_accepted: int | None = None


@torch.no_grad()
def generate(
    inputs: Tensor | None = None,
    *,
    model: Any,
    mtp_heads: str | None = None,
    mtp_drafts: int | None = None,
    streamer: Any = None,
    **arguments: Any,
) -> Any:
    """Generate as `model.generate` does, with drafts; the same arguments, the same tokens.

    `mtp_heads`   directory or repository of the heads; by default where the model was loaded from
    `mtp_drafts`  how many heads draft; by default all, 0 for none

    ValueError for heads that are missing or of another model, and for what drafts do not go with: beams, assistants, a
    cache of the caller's or none, embeddings as inputs, attentions and hidden states as outputs, guidance, watermarks,
    a model over several devices.
    """
    source = arguments.pop("custom_generate", None)  # where from_pretrained put this function in place of generate
    arguments.pop("trust_remote_code", None)
    if source is not None and not isinstance(source, str):
        return type(model).generate(model, inputs, streamer=streamer, custom_generate=source, **arguments)
    _require_plain_inputs(model, arguments)
    heads = _heads_of(model, str(mtp_heads or source or model.name_or_path))
    num_drafts = len(heads) if mtp_drafts is None else mtp_drafts
    if not 0 <= num_drafts <= len(heads):
        raise ValueError(f"found mtp_drafts={mtp_drafts}, expected 0 to {len(heads)}, the number of heads")

    def decode(model: Any, input_ids: Tensor, generation_config: Any, **prepared: Any) -> Any:
        processor, criteria = prepared.pop("logits_processor"), prepared.pop("stopping_criteria")
        _require_plain_decoding(generation_config, prepared)
        decoding = _Decoding(model, heads[:num_drafts], input_ids, generation_config, prepared)
        return decoding.run(processor, criteria, streamer)

    arguments = _with_stop_strings(model, arguments)
    return type(model).generate(model, inputs, streamer=streamer, custom_generate=decode, **arguments)


def _require_plain_inputs(model: Any, arguments: dict[str, Any]) -> None:
    others = ("assistant_model", "past_key_values", "inputs_embeds", "negative_prompt_ids", "synced_gpus")
    if found := [name for name in others if arguments.get(name) is not None and arguments[name] is not False]:
        raise ValueError(
            f"found {', '.join(found)}, expected the whole prompt as ids for the heads to read and one process; leave "
            "it out, or generate without custom_generate"
        )
    if len(devices := set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        raise ValueError(
            f"found the model on {len(devices)} devices, expected one; load it with device_map={{'': 0}}, or generate "
            "without custom_generate"
        )


def _require_plain_decoding(config: Any, model_inputs: dict[str, Any]) -> None:
    mode = config.get_generation_mode()
    given = {
        f"the mode {mode.value}": mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE),
        "use_cache=False": not model_inputs.get("use_cache") or model_inputs.get("past_key_values") is None,
        f"cache_implementation={config.cache_implementation!r}": config.cache_implementation not in (None, "dynamic"),
        "output_attentions": bool(config.output_attentions),
        "output_hidden_states": bool(config.output_hidden_states),
        "guidance_scale": config.guidance_scale not in (None, 1, 1.0),
        "watermarking_config": config.watermarking_config is not None,
        "prefill_chunk_size": config.prefill_chunk_size is not None,
    }
    given |= {name: value is not None for name, value in model_inputs.items() if name not in _KNOWN_INPUTS}
    if found := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"found {', '.join(found)}, expected greedy decoding or sampling with the default cache; leave it out, or "
            "generate without custom_generate"
        )


def _with_stop_strings(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Turn `stop_strings` into a criterion: generate hands no tokenizer to a decoding function of one's own."""
    configs = (arguments.get("generation_config"), model.generation_config)
    strings = arguments.get("stop_strings") or next(
        (config.stop_strings for config in configs if config is not None and config.stop_strings), None
    )
    if not strings:
        return arguments
    tokenizer = arguments.get("tokenizer")
    if tokenizer is None:
        raise ValueError("found stop_strings without a tokenizer, expected tokenizer=...; pass the model's tokenizer")
    criteria = StoppingCriteriaList(arguments.get("stopping_criteria") or [])
    criteria.append(StopStringCriteria(tokenizer, strings))
    return arguments | {"stop_strings": None, "stopping_criteria": criteria}


def _heads_of(model: Any, source: str) -> nn.ModuleList:
    """Return the heads of a directory or repository as layers of the model; they are kept as long as the model is."""
    try:
        spec_path, weights_path = (Path(str(cached_file(source, name))) for name in (SPEC, WEIGHTS))
    except OSError as error:
        raise ValueError(
            f"found no {SPEC} with {WEIGHTS} in {source!r}, where the model was loaded from, expected the prediction "
            "heads there; pass their directory: mtp_heads=DIR"
        ) from error
    key = (str(weights_path.resolve()), weights_path.stat().st_mtime_ns)
    if model not in _loaded or _loaded[model][0] != key:
        _loaded[model] = (key, _read_heads(model, json.loads(spec_path.read_text()), weights_path))
    return _loaded[model][1].to(device=model.device, dtype=model.dtype)


def _read_heads(model: Any, spec: dict[str, Any], weights: Path) -> nn.ModuleList:
    family = model.config.model_type
    if spec["version"] != VERSION or spec["model_type"] != family:
        raise ValueError(
            f"found heads of version {spec['version']} for a model of {spec['model_type']} beside {weights}, expected "
            f"version {VERSION} for one of {family}; use the generate.py, the heads and the model of one directory"
        )
    tensors = load_file(weights)
    layers = []
    for index in range(spec["num_heads"]):
        prefix = f"heads.{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        layers.append(_layer(model, own, weights))
        modules: Any = layers[-1].modules()
        for module in modules:
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # its place in the heads' cache
    return nn.ModuleList(layers)


def _layer(model: Any, tensors: dict[str, Tensor], weights: Path) -> nn.Module:
    """Build a layer like the model's last one, with weights of its own."""
    last = _last_layer(model)
    with torch.device("meta"):
        layer: nn.Module = type(last)(model.config, model.config.num_hidden_layers - 1)
    try:
        layer.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{weights} does not hold layers of this {type(model).__name__}: {error}. Use the heads and the model of "
            "one directory"
        ) from error
    return layer.eval().requires_grad_(False)


def _last_layer(model: Any) -> nn.Module:
    return model.get_decoder().layers[model.config.num_hidden_layers - 1]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Drafts:
    """Tokens that the heads say come next, and when sampling the distributions that they were drawn from."""

    ids_BK: Tensor
    probabilities_BKV: Tensor | None

    @property
    def num(self) -> int:
        return self.ids_BK.shape[1]


class _Decoding:
    """The rows of one call, the model's cache and that of the heads.

    `ids_BT` are the decided tokens, prompt included. Between two passes, the caches hold all of them but the newest.
    """

    def __init__(self, model: Any, heads: Any, input_ids: Tensor, config: Any, model_inputs: dict[str, Any]) -> None:
        self.model, self.heads, self.config = model, heads, config
        self.ids_BT = input_ids
        self.prompt_length = input_ids.shape[1]
        self.mask_BT: Tensor | None = model_inputs["attention_mask"]
        self.positions_BT: Tensor = model_inputs["position_ids"]
        self.cache = model_inputs["past_key_values"]
        self.head_cache: Any = DynamicCache(config=model.config)
        self.head_cache.layers = [DynamicCache(config=model.config).layers[-1] for _ in heads]
        self.unfinished_B = torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        self.trunk: tuple[Tensor, dict[str, Any]] | None = None
        self.scores: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.num_forwards = self.num_row_forwards = self.num_tokens = self.num_drafted = self.num_accepted = 0

    def run(self, processor: Any, criteria: Any, streamer: Any) -> Any:
        """Decode all rows to their ends."""
        drafts = _Drafts(self.ids_BT[:, :0], None)
        with self._trunk_kept():
            logits_BTV = self._forward(self.ids_BT, num_logits=1)
            self.cache.activate_past_recording()  # after the prompt: windows need not keep what lies before them
            while True:
                index = self._decide(logits_BTV, drafts, processor, criteria, streamer)
                num_drafts = min(len(self.heads), self.config.max_length - self.ids_BT.shape[1] - 1)
                is_done = not bool(self.unfinished_B.any())
                head_logits_BKV = (
                    None if is_done or num_drafts < 1 else self._head_logits(index, num_drafts, drafts.num)
                )
                self._drop(drafts.num - index)
                if is_done:
                    break
                drafts = self._drafts(head_logits_BKV, processor)
                block_BT = torch.cat([self.ids_BT[:, -1:], drafts.ids_BK], dim=1)
                logits_BTV = self._forward(block_BT, num_logits=block_BT.shape[1])
        if streamer is not None:
            streamer.end()
        return self._output() if self.config.return_dict_in_generate else self.ids_BT

    @contextmanager
    def _trunk_kept(self) -> Iterator[None]:
        """Keep what the last layer is given in each pass: the output of the trunk, masks and rotary tables."""

        def keep(layer: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
            self.trunk = (args[0] if args else inputs["hidden_states"], inputs)

        handle = _last_layer(self.model).register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _forward(self, ids_BT: Tensor, num_logits: int) -> Tensor:
        """Run the model over tokens behind those in its cache; return its logits [B, T, V] at the last `num_logits`."""
        device, length = self.model.device, self.cache.get_seq_length() + ids_BT.shape[1]
        mask_BT, positions_BT = self.mask_BT, self.positions_BT
        if length > self.prompt_length:
            ahead = (
                torch.arange(ids_BT.shape[1], device=positions_BT.device) + self.ids_BT.shape[1] - self.prompt_length
            )
            positions_BT = positions_BT[:, -1:] + ahead
            if mask_BT is not None:
                mask_BT = torch.cat([mask_BT, mask_BT.new_ones(mask_BT.shape[0], length - self.prompt_length)], dim=1)
        outputs = self.model(
            input_ids=ids_BT.to(device),
            attention_mask=None if mask_BT is None else mask_BT.to(device),
            position_ids=positions_BT.to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=num_logits,
            return_dict=True,
        )
        self.num_forwards += 1
        self.num_row_forwards += int(self.unfinished_B.sum())
        self.num_drafted += int(self.unfinished_B.sum()) * (num_logits - 1)
        return outputs.logits  # type: ignore[no-any-return]

    def _decide(self, logits_BTV: Tensor, drafts: _Drafts, processor: Any, criteria: Any, streamer: Any) -> int:
        """Decide tokens as long as the drafts hold in every row, and one more; return how many drafts were kept."""
        ends_rows = any(hasattr(each, "eos_token_id") for each in criteria)
        for index in range(drafts.num + 1):
            logits_BV = logits_BTV[:, index].to(copy=True, dtype=torch.float32, device=self.ids_BT.device)
            scores_BV = processor(self.ids_BT, logits_BV)
            tokens_B, holds_B = self._choose(scores_BV, drafts, index)
            if ends_rows:
                tokens_B = torch.where(
                    self.unfinished_B, tokens_B, self.config._pad_token_tensor.to(self.ids_BT.device)
                )
                holds_B = holds_B | ~self.unfinished_B
            self._append(tokens_B, logits_BV, scores_BV, streamer)
            self.num_accepted += int((holds_B & self.unfinished_B).sum())
            self.unfinished_B = self.unfinished_B & ~criteria(self.ids_BT, tuple(self.scores) or None)
            if not bool(holds_B.all()) or not bool(self.unfinished_B.any()):
                break
        return index

    def _append(self, tokens_B: Tensor, logits_BV: Tensor, scores_BV: Tensor, streamer: Any) -> None:
        if self.config.return_dict_in_generate and self.config.output_scores:
            self.scores.append(scores_BV)
        if self.config.return_dict_in_generate and self.config.output_logits:
            self.logits.append(logits_BV)
        self.ids_BT = torch.cat([self.ids_BT, tokens_B[:, None]], dim=1)
        self.num_tokens += int(self.unfinished_B.sum())
        if streamer is not None:
            streamer.put(tokens_B.cpu())

    def _choose(self, scores_BV: Tensor, drafts: _Drafts, index: int) -> tuple[Tensor, Tensor]:
        """Return the tokens of a position, and whether each is the draft; behind the last draft none is."""
        is_drafted = index < drafts.num
        if not self.config.do_sample:
            tokens_B = scores_BV.argmax(-1)
            return tokens_B, tokens_B == drafts.ids_BK[:, index] if is_drafted else torch.zeros_like(tokens_B) > 0
        p_BV = scores_BV.softmax(-1)
        if not is_drafted:
            tokens_B = torch.multinomial(p_BV, 1)[:, 0]
            return tokens_B, torch.zeros_like(tokens_B) > 0
        assert drafts.probabilities_BKV is not None
        return speculate(p_BV, drafts.probabilities_BKV[:, index], drafts.ids_BK[:, index])

    def _head_logits(self, index: int, num_drafts: int, num_drafted: int) -> Tensor:
        """Run the heads over the pass's positions, to fill their cache; return logits [B, K, V] behind the decided."""
        assert self.trunk is not None
        h_BTD, inputs = self.trunk
        inputs = {name: value for name, value in inputs.items() if name != "hidden_states"}
        inputs["past_key_values"] = self.head_cache
        last = h_BTD.shape[1] - 1 - num_drafted + index
        read = [head(h_BTD, **inputs)[:, last] for head in self.heads[:num_drafts]]
        if self.num_forwards == 1:
            self.head_cache.activate_past_recording()
        hidden_BKD = self.model.get_decoder().norm(torch.stack(read, dim=1))
        return self.model.get_output_embeddings()(hidden_BKD)  # type: ignore[no-any-return]

    def _drafts(self, logits_BKV: Tensor | None, processor: Any) -> _Drafts:
        """Choose a token of each head as if those of the heads before it were decided."""
        if logits_BKV is None:
            return _Drafts(self.ids_BT[:, :0], None)
        ids_BT, probabilities = self.ids_BT, []
        for index in range(logits_BKV.shape[1]):
            logits_BV = logits_BKV[:, index].to(copy=True, dtype=torch.float32, device=ids_BT.device)
            scores_BV = processor(ids_BT, logits_BV)
            if self.config.do_sample:
                probabilities.append(scores_BV.softmax(-1))
                tokens_B1 = torch.multinomial(probabilities[-1], 1)
            else:
                tokens_B1 = scores_BV.argmax(-1, keepdim=True)
            ids_BT = torch.cat([ids_BT, tokens_B1], dim=1)
        return _Drafts(ids_BT[:, self.ids_BT.shape[1] :], torch.stack(probabilities, dim=1) if probabilities else None)

    def _drop(self, num: int) -> None:
        """Forget the last `num` positions of a pass; windows forget what lies before them."""
        if self.num_forwards > 1:
            self.cache.crop(-num)
            for layer in self.head_cache.layers:
                if layer.is_initialized:
                    layer.crop(-num)

    def _output(self) -> Any:
        output: Any = DraftedOutput
        for layer in self.cache.layers:
            if hasattr(layer, "record_past"):
                layer.record_past = False
        return output(
            sequences=self.ids_BT,
            scores=tuple(self.scores) if self.config.output_scores else None,
            logits=tuple(self.logits) if self.config.output_logits else None,
            past_key_values=self.cache,
            num_forwards=self.num_forwards,
            tokens_per_forward=self.num_tokens / self.num_row_forwards,
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
        )


def speculate(p_BV: Tensor, q_BV: Tensor, drafts_B: Tensor) -> tuple[Tensor, Tensor]:
    """Keep a draft drawn from q with probability min(1, p / q), else draw from max(p - q, 0): that draws from p.

    Returns the tokens, and whether each is its draft.
    """
    drafts_B1 = drafts_B[:, None]
    p_B, q_B = p_BV.gather(1, drafts_B1)[:, 0], q_BV.gather(1, drafts_B1)[:, 0]
    holds_B = torch.rand_like(p_B) * q_B < p_B
    rest_BV = (p_BV - q_BV).clamp(min=0)
    rest_BV = torch.where(rest_BV.sum(-1, keepdim=True) > 0, rest_BV, p_BV)  # p = q: every draft holds
    return torch.where(holds_B, drafts_B, torch.multinomial(rest_BV, 1)[:, 0]), holds_B
