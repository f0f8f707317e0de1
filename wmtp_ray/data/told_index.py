"""Token counts of an index with the prompts' label line (`prompt_label.py`); the index's own are without it.

The line stands between empty lines, where every tokenizer of ours cuts: it adds the same number of tokens to every
prompt. That is tried on a few prompts; a tokenizer for which it does not hold is refused.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.prompt_label import Label, Told
from wmtp_ray.data.tokenizer import CodeTokenizer, render_prompt
from wmtp_ray.errors import ConfigError

_PROBES = (("Add.", ""), ("Add two numbers\n", ""), ("x = {", "1 2"), ("end  ", "7\n"), ("déjà vu 中", "\t"))
_RESPONSES = ("x = 1\n", "\tpass", "  y")


@lru_cache(maxsize=8)
def line_tokens(tokenizer: CodeTokenizer, label: Label) -> int:
    """Return how many tokens the line of a label adds to a prompt; ConfigError where that depends on the prompt."""
    added = {
        len(tokenizer.encode_pair(render_prompt(*probe, label), response)[0])
        - len(tokenizer.encode_pair(render_prompt(*probe), response)[0])
        for probe in _PROBES
        for response in _RESPONSES
    }
    if len(added) != 1:
        raise ConfigError(
            f"data.condition=label: with {tokenizer.model_path} the line that names a label adds {min(added)} to "
            f"{max(added)} tokens, by the text around it, expected one number, which plans count with; use a tokenizer "
            "that ends its pieces at an empty line, or data.condition=none"
        )
    return added.pop()


def told_index(index: RowIndex, told: Told, tokenizer: CodeTokenizer) -> RowIndex:
    """Return the index with the tokens that every row has when its prompt tells `told`; uncounted rows stay so."""
    if told == "nothing":
        return index
    correct = line_tokens(tokenizer, "correct")
    added_R = np.where(index.is_correct_R | (told == "correct"), correct, line_tokens(tokenizer, "incorrect"))
    counted_R = np.where(index.prompt_tokens_R < 0, index.prompt_tokens_R, index.prompt_tokens_R + added_R)
    return replace(index, prompt_tokens_R=counted_R.astype(np.int32))
