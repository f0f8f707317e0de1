"""`wmtp evaluate` and `wmtp collect`: Pass@K of a policy or of samples, comparisons; rows from a policy's answers."""

import argparse
from pathlib import Path
from typing import get_args

from wmtp_ray.cli.verbs import Verbs, absolute, step_or_best
from wmtp_ray.config.arguments import CommandParser
from wmtp_ray.config.evaluation import FormatName
from wmtp_ray.errors import ConfigError, Interrupted

EVALUATION_FLAGS = {
    "--num-samples": ("evaluation.num_samples", "answers to each problem"),
    "--temperature": ("evaluation.temperature", "0: greedy"),
    "--top-p": ("evaluation.top_p", "share of probability that is sampled from"),
    "--max-new-tokens": ("evaluation.max_new_tokens", "longer answers are cut"),
    "--limit": ("evaluation.limit", "only the first so many problems"),
    "--speculate": ("evaluation.draft_horizons", "tokens that the prediction heads draft for a forward to check"),
    "--batch-size": ("evaluation.batch_size", "answers that a decoder works on at a time"),
    "--workers": ("evaluation.num_judges", "programs judged at a time"),
    "--decoders": ("evaluation.num_decoders", "copies of the policy"),
    "--isolation": ("evaluation.isolation", "auto, namespace, landlock, landlock-weak, seatbelt or rlimits"),
    "--timeout": ("evaluation.timeout_s", "CPU seconds of a program on its tests"),
    "--seed": ("seed", "base seed"),
}


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    _add_evaluate(verbs.add_parser("evaluate", help="Pass@K of a policy, or of a file of samples; comparisons"))
    _add_collect(verbs.add_parser("collect", help="rows for training from a policy's own judged answers"))


def _add_evaluate(parser: CommandParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="RUN|DIR", help="a run's folder, or a model directory")
    source.add_argument("--samples", type=Path, help="JSONL of task_id with completion or solution: judge these")
    source.add_argument("--compare", type=Path, nargs=2, metavar="DIR", help="two evaluations of the same problems")
    parser.add_argument("--dataset", metavar="NAME|FILE", help="humaneval, mbpp, codecontests, or a file of problems")
    parser.add_argument("--format", choices=get_args(FormatName), help="how problems are put (evaluation.formats)")
    parser.add_argument("--k", type=_numbers, metavar="K,K,..", help="the K of Pass@K, none above --num-samples")
    parser.add_argument(
        "--step", type=step_or_best, metavar="N|best", help="a run's checkpoint after N steps, or its best (final/)"
    )
    parser.add_argument("--only-sampled", action="store_true", help="with --samples: only problems that have samples")
    parser.add_argument("--out", type=Path, help="folder (the run's eval/, else evaluations/ in the storage)")
    _add_shared(parser)
    parser.set_defaults(run=_evaluate)


def _add_collect(parser: CommandParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="RUN|DIR", help="a run's folder, or a model directory")
    parser.add_argument("--problems", type=Path, metavar="FILE", required=True, help="training problems with tests")
    parser.add_argument("--out", type=Path, metavar="ROWS.jsonl", required=True, help="rows; what is there goes on")
    parser.add_argument(
        "--until-both", type=int, metavar="K", help="draw on until a problem has K correct and K incorrect programs"
    )
    parser.add_argument("--max-samples", type=int, metavar="N", help="with --until-both: the most answers of a problem")
    parser.add_argument("--max-correct", type=int, metavar="N", help="correct rows of a problem (all)")
    parser.add_argument("--max-incorrect", type=int, metavar="N", help="incorrect rows of a problem (all)")
    parser.add_argument(
        "--on-evaluated", choices=("fail", "skip"), default="fail", help="problems that results are measured on (fail)"
    )
    parser.add_argument("--source", metavar="NAME", help="metadata.source of the rows (that of the data set)")
    parser.add_argument("--format", choices=get_args(FormatName), help="how problems are put (as rows put them)")
    _add_shared(parser)
    parser.set_defaults(run=_collect)


def _add_shared(parser: CommandParser) -> None:
    """Add who answers, where the configuration comes from, and a flag for each key of the evaluation that has one.

    Any other key may follow as a word.
    """
    parser.add_argument(
        "--engine",
        metavar="URL",
        help="an OpenAI-compatible server answers (docs/engines.md); with --checkpoint: it serves that one",
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer (the run's, or the one in DIR)")
    parser.add_argument("--preset", metavar="NAME", help="of a machine, as for launch")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="presets and defaults of your own, as for launch"
    )
    for flag, (key, meaning) in EVALUATION_FLAGS.items():
        parser.add_argument(flag, dest=f"key:{key}", metavar="VALUE", help=meaning)
    parser.add_argument("words", nargs="*", metavar="key=value", help="any other key of configs/defaults.yaml")


def _words(arguments: argparse.Namespace) -> tuple[str, ...]:
    flags = {name.removeprefix("key:"): value for name, value in vars(arguments).items() if name.startswith("key:")}
    return (*(f"{key}={value}" for key, value in flags.items() if value is not None), *arguments.words)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _evaluate(arguments: argparse.Namespace) -> None:
    from wmtp_ray.flows.evaluate.evaluate_command import EvaluationRequest, compare_command, evaluate_command

    if arguments.compare is not None:
        print(compare_command(*arguments.compare))
        return
    if not (arguments.checkpoint or arguments.samples or arguments.engine):
        raise ConfigError(
            "found nothing to evaluate, expected --checkpoint, --engine, --samples or --compare; give one"
        )
    if arguments.dataset is None:
        raise ConfigError("found no --dataset, expected the problems to evaluate on: a name or a file")
    request = EvaluationRequest(
        dataset=arguments.dataset,
        checkpoint=absolute(arguments.checkpoint),
        samples=absolute(arguments.samples),
        tokenizer=absolute(arguments.tokenizer),
        out=absolute(arguments.out),
        format=arguments.format,
        ks=arguments.k,
        preset=arguments.preset,
        config_dir=absolute(arguments.config_dir),
        words=_words(arguments),
        only_sampled=arguments.only_sampled,
        engine=arguments.engine,
        step=arguments.step,
    )
    try:
        print(evaluate_command(request, arguments.now))
    except KeyboardInterrupt as stop:
        raise Interrupted("the same command goes on") from stop


def _collect(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from wmtp_ray.flows.evaluate.collect_command import CollectionRequest, collect_command

    request = CollectionRequest(
        checkpoint=absolute(arguments.checkpoint),
        problems=arguments.problems.absolute(),
        out=arguments.out.absolute(),
        tokenizer=absolute(arguments.tokenizer),
        format=arguments.format,
        source=arguments.source,
        until_both=arguments.until_both,
        max_samples=arguments.max_samples,
        max_correct=arguments.max_correct,
        max_incorrect=arguments.max_incorrect,
        skips_evaluated=arguments.on_evaluated == "skip",
        preset=arguments.preset,
        config_dir=absolute(arguments.config_dir),
        words=_words(arguments),
        engine=arguments.engine,
    )
    print(collect_command(request, Console(stderr=True), arguments.now))
