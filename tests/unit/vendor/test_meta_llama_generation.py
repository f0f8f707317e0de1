import pytest
import torch

from vendor.meta_llama import ModelArgs, Transformer, generate

ARGS = ModelArgs(dim=32, n_layers=3, n_heads=4, vocab_size=13, n_future_tokens=2, multiple_of=8)
PROMPTS = [[1, 5], [1, 7, 8, 9, 3], [1], [1, 4, 4]]
EOS = 2


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(ARGS).requires_grad_(False)
    model.init_weights(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def _naive(
    model: Transformer, prompt: list[int], limit: int, temperature: float, generator: torch.Generator | None
) -> list[int]:
    """Decode one prompt by a full forward for every token."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        logits_V = model(torch.tensor([tokens]))[0, -1, 0]
        if temperature == 0:
            token = int(logits_V.argmax())
        else:
            token = int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))
        if token == EOS:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def test_greedy_decoding_equals_full_forwards(model: Transformer) -> None:
    found = generate(model, PROMPTS, eos_id=EOS, max_new_tokens=9, temperature=0.0)
    assert found == [_naive(model, prompt, 9, 0.0, None) for prompt in PROMPTS]
    assert len({len(tokens) for tokens in found}) > 1, "the fixture should stop some rows at the end id"


def test_sampling_draws_once_per_generated_token_of_the_prompt(model: Transformer) -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(100 + row) for row in range(len(PROMPTS))]

    found = generate(model, PROMPTS, eos_id=EOS, max_new_tokens=9, temperature=1.3, generators=generators())
    alone = [_naive(model, prompt, 9, 1.3, drawn) for prompt, drawn in zip(PROMPTS, generators(), strict=True)]
    assert found == alone


def test_nothing_is_generated_when_nothing_is_allowed(model: Transformer) -> None:
    assert generate(model, PROMPTS, eos_id=EOS, max_new_tokens=0, temperature=0.0) == [[], [], [], []]


def test_empty_prompts_and_missing_generators_are_refused(model: Transformer) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [[1], []], eos_id=EOS, max_new_tokens=1, temperature=0.0)
    with pytest.raises(ValueError, match="as many generators"):
        generate(model, PROMPTS, eos_id=EOS, max_new_tokens=1, temperature=1.0, generators=[torch.Generator()])
