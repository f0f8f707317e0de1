"""`wmtp`: the verbs of the project. Defines the command line only; each verb is one call into a flow or a layer."""

if __name__ == "__main__":  # first of all: what is imported below takes half a second
    from wmtp_ray.interrupts import end_on_signals

    end_on_signals()

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

from wmtp_ray.config.dataset_suffix import with_suffix
from wmtp_ray.config.evaluation import FormatName
from wmtp_ray.errors import ArtifactError, ConfigError, TrackingError, TrainingError, WmtpError
from wmtp_ray.flows.run.launch_run import DONE, FAILED, REFUSED, launch
from wmtp_ray.flows.sweep.sweep import sweep_command
from wmtp_ray.interrupts import INTERRUPTED, say_at_end

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
SYNC_HELP = "send MLflow what it lacks of a run; a second time there is nothing to send"
DTYPES = ("float32", "bfloat16", "float16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (0 done, 2 refused, 1 failed, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    say_at_end("interrupted: the same command starts again")
    if words[:1] == ["launch"]:
        return launch(words[1:], datetime.now())
    if words[:1] == ["sweep"]:
        return sweep_command(words[1:], datetime.now())
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except WmtpError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wmtp", description="Weighted multi-token prediction on Ray.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verbs.add_parser("launch", help="train: recipe=NAME [preset=NAME] [key=value ...] [--dry-run] [--resume]")
    verbs.add_parser("sweep", help="many trainings: as for launch, and sweep=NAME [sweep.key=value ...]")
    quickstart = verbs.add_parser(
        "quickstart", help="generated problems, a nano model, three arms compared after equal training: minutes"
    )
    quickstart.add_argument("--storage", type=Path, default=Path("storage"), help="where it writes (storage)")
    quickstart.set_defaults(run=_quickstart)
    doctor = verbs.add_parser("doctor", help="would a run work here, does it fit: machine, files, versions, memory")
    doctor.add_argument("words", nargs="*", metavar="key=value", help="as for launch: recipe=NAME preset=NAME ...")
    doctor.add_argument("--dataset-suffix", metavar="small", help="the same as data.suffix=small")
    doctor.add_argument("--use-micro-model", action="store_true", help="models_v2/micro-mtp, as for launch")
    doctor.set_defaults(run=_doctor)
    _add_import(verbs.add_parser("import", help="a LLaMA of Hugging Face or a GGUF file to a multi-token model"))
    _add_export(verbs.add_parser("export", help="a run's checkpoint to a model directory, ours or Hugging Face's"))
    _add_evaluate(verbs.add_parser("evaluate", help="Pass@K of a policy, or of anyone's samples; comparisons"))
    _add_report(verbs.add_parser("report", help="one HTML file from runs side by side, or from a sweep"))
    data = verbs.add_parser("data", help="look after data files").add_subparsers(required=True, metavar="ACTION")
    _add_index(data.add_parser("index", help="build the index of a JSONL, anew"))
    _add_inspect(data.add_parser("inspect", help="show what is in an indexed JSONL and what a recipe would draw"))
    _add_sample(data.add_parser("sample", help="a small JSONL of a few problems, out of an indexed large one"))
    tracking = verbs.add_parser("tracking", help="MLflow's copy of runs")
    _add_sync(tracking.add_subparsers(required=True, metavar="ACTION").add_parser("sync", help=SYNC_HELP))
    _add_validate(data.add_parser("validate", help="check splits: labels, repetition, leaks; exit code 2 for errors"))
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="directory with config.json, or a .gguf file")
    parser.add_argument("--out", type=Path, required=True, help="new folder for params.json, weights and tokenizer")
    parser.add_argument("--heads", type=int, default=4, help="horizons; each starts as the last block (4)")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of all tensors (each keeps its own)")
    parser.set_defaults(run=_import)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="RUN|DIR", help="a run's folder; for hf a model directory, too")
    parser.add_argument(
        "--format",
        choices=("meta", "hf"),
        default="meta",
        help="Meta's layout, or horizon 1 for other engines (meta)",
    )
    parser.add_argument("--step", type=int, help="a run's checkpoint after so many steps (the newest)")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--tokenizer", type=Path, help="for hf: its tokenizer (the run's, or the one in DIR)")
    parser.add_argument("--dtype", choices=DTYPES, help="for hf: dtype of all tensors (each keeps its own)")
    parser.set_defaults(run=_export)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs, or of a sweep")
    parser.add_argument("--out", type=Path, help="HTML file to write (report.html in the one folder given)")
    parser.set_defaults(run=_report)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="RUN|DIR", help="a run's folder, or a model directory")
    source.add_argument("--samples", type=Path, help="JSONL of task_id with completion or solution: judge these")
    source.add_argument("--compare", type=Path, nargs=2, metavar="DIR", help="two evaluations of the same problems")
    parser.add_argument("--dataset", metavar="NAME|FILE", help="humaneval, mbpp, codecontests, or a file of problems")
    parser.add_argument("--format", choices=get_args(FormatName), help="how problems are put (evaluation.formats)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer (the run's, or the one in DIR)")
    parser.add_argument("--k", type=_numbers, metavar="K,K,..", help="the K of Pass@K, none above --num-samples")
    parser.add_argument("--only-sampled", action="store_true", help="with --samples: only problems that have samples")
    parser.add_argument("--out", type=Path, help="folder (the run's eval/, else evaluations/ in the storage)")
    parser.add_argument("--preset", metavar="NAME", help="of a machine, as for launch")
    for flag, (key, meaning) in EVALUATION_FLAGS.items():
        parser.add_argument(flag, dest=f"key:{key}", metavar="VALUE", help=meaning)
    parser.add_argument("words", nargs="*", metavar="key=value", help="any other key of configs/defaults.yaml")
    parser.set_defaults(run=_evaluate)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL in the row schema")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model to count tokens for")
    parser.add_argument("--out", type=Path, help="index file, or a folder for it (beside the JSONL)")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="what to do with malformed lines")
    _add_suffix(parser)
    parser.set_defaults(run=_index)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL that has an index")
    parser.add_argument("words", nargs="*", metavar="key=value", help="as for launch: recipe=NAME, train.sampling....")
    parser.add_argument("--index", type=Path, help="index file, or a folder for it (beside the JSONL)")
    parser.add_argument("--picture", type=Path, help="also draw it into this PNG")
    parser.add_argument("--json", type=Path, help="also write the counts as JSON")
    _add_suffix(parser)
    parser.set_defaults(run=_inspect)


def _add_suffix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset-suffix", metavar="small", help="read train_small.jsonl in place of train.jsonl")


def _sibling(path: Path, suffix: str | None) -> Path:
    """Return the file that a verb reads for a path and --dataset-suffix."""
    return path if suffix is None else with_suffix(path.absolute(), suffix, Path("storage").absolute())


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL that has an index")
    parser.add_argument("--out", type=Path, required=True, help="new JSONL")
    parser.add_argument("--problems", type=int, default=500, help="how many problems, drawn at random (500)")
    parser.add_argument("--rows-per-problem", type=int, default=16, help="at most, half of them correct (16)")
    parser.add_argument("--seed", type=int, default=0, help="which problems and rows (0)")
    parser.set_defaults(run=_sample)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="the splits of one data set, as JSONL")
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="humaneval=FILE or mbpp=FILE: look for its text in the rows; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="also write the findings as JSON")
    _add_suffix(parser)
    parser.set_defaults(run=_validate)


def _add_sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, storage/runs/NAME")
    parser.set_defaults(run=_sync)


def _quickstart(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.quickstart import quickstart  # seconds of torch and ray: only for this verb

    return quickstart(arguments.storage.absolute(), datetime.now())


def _doctor(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.doctor import doctor

    words = list(arguments.words)
    words += ["--dataset-suffix", arguments.dataset_suffix] if arguments.dataset_suffix is not None else []
    words += ["--use-micro-model"] if arguments.use_micro_model else []
    report = doctor(words)
    print(report.render())
    return DONE if report.ok else REFUSED


def _import(arguments: argparse.Namespace) -> int:
    import torch

    from wmtp_ray.artifacts.hf.import_model import import_model

    dtype = arguments.dtype and getattr(torch, arguments.dtype)
    imported = import_model(arguments.model, arguments.out, num_horizons=arguments.heads, dtype=dtype)
    print(f"{arguments.out}: {imported.render()}")
    return DONE


def _export(arguments: argparse.Namespace) -> int:
    import torch

    from wmtp_ray.training.export_policy import export_hf, export_policy

    source, step, out = arguments.source.absolute(), arguments.step, arguments.out
    if arguments.format == "hf":
        dtype = arguments.dtype and getattr(torch, arguments.dtype)
        export_hf(source, step, out, tokenizer=arguments.tokenizer, dtype=dtype)
        print(f"{out}: LlamaForCausalLM")
    elif arguments.dtype or arguments.tokenizer:
        raise ArtifactError(
            "found --dtype or --tokenizer without --format hf, expected them with it; Meta's has neither"
        )
    else:
        print(f"{out}: policy {export_policy(source, step, out)}")
    return DONE


def _report(arguments: argparse.Namespace) -> int:
    from wmtp_ray.report.write_report import write_report  # a second of templates and statistics

    print(f"{write_report(arguments.folders, arguments.out, datetime.now())}: open it in a browser")
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.evaluate.evaluate_command import EvaluationRequest, compare_command, evaluate_command

    if arguments.compare is not None:
        print(compare_command(*arguments.compare))
        return DONE
    if arguments.dataset is None:
        raise ConfigError("found no --dataset, expected the problems to evaluate on: a name or a file")
    flags = {name.removeprefix("key:"): value for name, value in vars(arguments).items() if name.startswith("key:")}
    request = EvaluationRequest(
        dataset=arguments.dataset,
        checkpoint=_absolute(arguments.checkpoint),
        samples=_absolute(arguments.samples),
        tokenizer=_absolute(arguments.tokenizer),
        out=_absolute(arguments.out),
        format=arguments.format,
        ks=arguments.k,
        preset=arguments.preset,
        words=(*(f"{key}={value}" for key, value in flags.items() if value is not None), *arguments.words),
        only_sampled=arguments.only_sampled,
    )
    try:
        print(evaluate_command(request, datetime.now()))
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except TrainingError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _index(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.data.build_index import index_file

    file = _sibling(arguments.file, arguments.dataset_suffix)
    print(index_file(file, arguments.tokenizer, arguments.out, arguments.on_error))
    return DONE


def _inspect(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.data.inspect_data import inspect_data

    file = _sibling(arguments.file, arguments.dataset_suffix)
    files = {"picture": arguments.picture, "counts": arguments.json}
    text = inspect_data(file, index_path=arguments.index, words=arguments.words, **files)
    print(text, end="")
    return DONE


def _sample(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.sample_data import sample_data

    sizes = {"num_problems": arguments.problems, "rows_per_problem": arguments.rows_per_problem}
    print(sample_data(arguments.file, arguments.out, **sizes, seed=arguments.seed))
    return DONE


def _validate(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.data.validate_data import validate_data

    benchmarks = {name: Path(path) for name, _, path in (word.partition("=") for word in arguments.benchmark)}
    files = [_sibling(file, arguments.dataset_suffix) for file in arguments.files]
    report = validate_data(files, benchmarks=benchmarks, on_progress=_progress("checked"))
    print(report.render(), end="")
    if arguments.json is not None:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    return REFUSED if report.has_problems else DONE


def _sync(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.sync_tracking import sync_tracking

    try:
        report = sync_tracking(arguments.folder.absolute())
    except TrackingError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    print(report.render())
    return FAILED if report.lost.total() else DONE


def _progress(verb: str) -> Callable[[int, int], None] | None:
    """A line that is drawn over itself, where someone looks at it."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else "\r"
        print(f"{verb} {done / max(total, 1):.0%} of {total / 1e9:.2f} GB", end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
