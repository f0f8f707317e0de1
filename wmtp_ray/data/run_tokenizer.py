"""The tokenizer of a run, which encodes rows in the run's template."""

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer


def run_tokenizer(config: RunConfig) -> CodeTokenizer:
    """Load it; ConfigError where the template is that of a chat and the tokenizer has none."""
    return CodeTokenizer(config.tokenizer.path, config.data.template)
