"""Who decodes and judges for a collection: this process, decoders and judges on Ray, or a server and this process.

| asked for | decodes | judges |
|---|---|---|
| evaluation.num_decoders=1 | this process | threads of this process |
| evaluation.num_decoders=N | N actors on Ray, each with a copy of the policy | actors on Ray |
| evaluation.engine=openai | the server | threads of this process |

A policy of ours gives the same answers in the first two: the same device, precision and threads.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from wmtp_ray import interrupts
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.answerers import PolicyFiles
from wmtp_ray.evaluation.collecting.local_workers import Decode, LocalWorkers
from wmtp_ray.evaluation.decoding import decode
from wmtp_ray.evaluation.decoding_policy import load_decoding_policy
from wmtp_ray.evaluation.engine import decode_served
from wmtp_ray.evaluation.evaluation_port import Workers
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.served import ServedModel
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.evaluate.evaluation_workers import started_workers
from wmtp_ray.preflight.needed_resources import evaluation_resources
from wmtp_ray.preflight.start_checks import check_resources
from wmtp_ray.tracking.run_log import DRIVER
from wmtp_ray.tracking.run_warnings import RunWarnings, show_warnings


@contextmanager
def collecting_workers(
    config: RunConfig, answerer: PolicyFiles | ServedModel, isolation: str, directory: Path
) -> Iterator[Workers]:
    """Start what decodes and judges, and end it with the block; actors record their processes in `directory`.

    Raises ConfigError for more actors than the machine or the cluster has room for.
    """
    if isinstance(answerer, ServedModel):
        with _judging_here(partial(decode_served, config.engine, answerer), config, isolation) as workers:
            yield workers
    elif config.evaluation.num_decoders == 1:
        with _decoding_here(config, answerer) as decoder, _judging_here(decoder, config, isolation) as workers:
            yield workers
    else:
        with _on_ray(config, answerer, isolation, directory) as workers:
            yield workers


@contextmanager
def _on_ray(config: RunConfig, policy: PolicyFiles, isolation: str, directory: Path) -> Iterator[Workers]:
    check_resources(config, [evaluation_resources(config, with_decoders=True)])  # before Ray takes its seconds
    with ExitStack() as stack:
        warned = stack.enter_context(RunWarnings(directory, DRIVER))
        stack.callback(lambda: show_warnings(directory, warned.new()))  # once the workers have ended
        stack.enter_context(joined(config.cluster.num_cpus))
        stack.enter_context(interrupts.raised())  # so that decoders and judges clear up
        yield stack.enter_context(started_workers(config, policy, isolation, directory))


@contextmanager
def _decoding_here(config: RunConfig, policy: PolicyFiles) -> Iterator[Decode]:
    """Load the policy as a decoder on Ray would; the process has its own number of threads again afterwards."""
    if config.train.device == "cuda" and not config.cluster.gpus_per_decoder:
        config = config.model_copy(update={"train": config.train.model_copy(update={"device": "cpu"})})
    threads = torch.get_num_threads()
    torch.set_num_threads(config.cluster.threads_per_worker)
    try:
        model, tokenizer = load_decoding_policy(policy.model, config), CodeTokenizer(policy.tokenizer)
        yield partial(decode, model, tokenizer, batch_size=config.evaluation.batch_size)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _judging_here(decoder: Decode, config: RunConfig, isolation: str) -> Iterator[Workers]:
    settings = config.evaluation
    with Judge(
        isolation,
        settings.timeout_s,
        settings.num_judges,
        isolation_required=settings.isolation_required,
        memory_limit_bytes=int(settings.memory_limit_mb * (1 << 20)),
    ) as judge:
        yield LocalWorkers(decoder, judge, settings.num_judges)
