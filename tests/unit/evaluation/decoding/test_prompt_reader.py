import torch

from tests.unit.evaluation.decoding.conftest import World
from vendor.meta_llama import KVCache
from wmtp_ray.evaluation.decoding.prompt_reader import CachedModel, PromptReader

NUM_HORIZONS = 4


def reader_of(world: World, prompts: list[tuple[int, ...]]) -> tuple[PromptReader, list[torch.Size]]:
    """A reader, and the shapes of the passes that it makes from now on."""
    passes = list[torch.Size]()
    world.model.tok_embeddings.register_forward_hook(lambda _module, inputs, _output: passes.append(inputs[0].shape))
    return PromptReader(CachedModel(world.model, NUM_HORIZONS, world.tokenizer.vocab_size), prompts), passes


@torch.no_grad()
def test_prompts_that_share_a_pass_are_read_as_if_alone(world: World) -> None:
    """Logits of all horizons behind each, and keys and values in all blocks up to each one's own length."""
    world = world.to(torch.float64)
    prompts = sorted({request.prompt_ids for request in world.requests()}, key=len, reverse=True)
    reader, passes = reader_of(world, prompts)
    found = [reader.read(prompt) for prompt in prompts]
    assert passes == [(len(prompts), len(prompts[0]))]
    for prompt, read in zip(prompts, found, strict=True):
        cache = KVCache(world.model.args, batch_size=1, max_length=40, num_horizons=NUM_HORIZONS, dtype=torch.float64)
        alone_THV = world.model(torch.tensor([prompt]), return_all_heads=True, cache=cache)[0]
        torch.testing.assert_close(read.logits_HV, alone_THV[-1])
        assert read.cache.lengths[read.row] == len(prompt)
        for block, expected in zip(read.cache.blocks, cache.blocks, strict=True):
            length = len(prompt)
            torch.testing.assert_close(block.keys_BTNC[read.row, :length], expected.keys_BTNC[0, :length])
            torch.testing.assert_close(block.values_BTNC[read.row, :length], expected.values_BTNC[0, :length])


@torch.no_grad()
def test_a_pass_takes_512_tokens_with_their_padding_or_one_prompt(world: World) -> None:
    world = world.to(torch.float32)
    prompts = [tuple(range(5, 5 + length)) for length in (300, 200, 180, 12, 11)]
    prompts = [prompts[0] * 2, *prompts[1:]]
    reader, passes = reader_of(world, [*prompts, prompts[-1]])
    for prompt in prompts:
        reader.read(prompt)
    assert passes == [(1, 600), (2, 200), (2, 12)]
    assert reader.read(prompts[-1]) is reader.read(prompts[-1])
