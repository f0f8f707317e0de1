import pytest
import torch

from tests.unit.evaluation.decoding.conftest import World
from wmtp_ray.evaluation.decoding import AuditReport, DecodingSettings, audit, decode

SETTINGS = DecodingSettings(max_new_tokens=20, temperature=0.0, top_p=1.0, stop=(), draft_horizons=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_greedy_token_is_the_argmax_or_within_rounding(world: World, dtype: torch.dtype) -> None:
    world = world.to(dtype)
    prompts = {request.key: request.prompt_ids for request in world.requests()}
    for each in decode(world.model, world.tokenizer, world.requests(), SETTINGS, batch_size=3):
        ids = [*each.ids, world.tokenizer.eos_id] if each.finish == "end" else each.ids
        report = audit(world.model, prompts[each.key], ids)
        assert report.num_tokens == len(ids) == report.num_argmax + report.num_within_epsilon
        assert report.num_divergent == 0
        if dtype != torch.bfloat16:
            assert report.num_argmax == len(ids)


def test_wrong_tokens_diverge(world: World) -> None:
    world = world.to(torch.float64)
    prompt_ids = world.requests()[1].prompt_ids
    with torch.no_grad():
        order_V = world.model(torch.tensor([prompt_ids]))[0, -1, 0].argsort(descending=True)
    assert audit(world.model, prompt_ids, [int(order_V[0])]) == AuditReport(1, 1, 0, 0)
    assert audit(world.model, prompt_ids, [int(order_V[1])]) == AuditReport(1, 0, 0, 1)


def test_a_near_tie_is_within_epsilon(world: World) -> None:
    world = world.to(torch.float64)
    prompt_ids = world.requests()[1].prompt_ids
    with torch.no_grad():
        order_V = world.model(torch.tensor([prompt_ids]))[0, -1, 0].argsort(descending=True)
        best, other = int(order_V[0]), int(order_V[-1])
        world.model.output.weight[other] = world.model.output.weight[best] * (1 - 1e-16)
        world.model.output.weight[best] *= 1 + 4e-16
    assert audit(world.model, prompt_ids, [other]) == AuditReport(1, 0, 1, 0)
