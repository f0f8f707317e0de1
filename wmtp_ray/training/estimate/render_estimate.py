"""An estimate as plain text: a table of memory by part, and the work of each stage. Changes and decides nothing."""

from wmtp_ray.run_folder import CRITIC_STAGE
from wmtp_ray.text_tables import table
from wmtp_ray.training.estimate.fit import Load
from wmtp_ray.training.estimate.hardware import GIB
from wmtp_ray.training.estimate.memory import MIB
from wmtp_ray.training.estimate.run_estimate import ASSUMED_UTILISATION, RunEstimate, StageWork

_STAGES = {1: "stage 1, the critic", 2: "stage 2, the policy"}


def render_estimate(estimate: RunEstimate) -> str:
    """Describe memory and time."""
    only_critic = [each.stage for each in estimate.stages] == [CRITIC_STAGE]
    sections = [_memory(estimate.load, "stage 1, at most that of a stage 2" if only_critic else "stage 2")]
    if estimate.stages:
        sections.append(_time(estimate))
    return "\n\n".join(sections)


def _memory(load: Load, of_what: str) -> str:
    rank, scoring = load.rank(), load.scoring()
    rows = [(name, _bytes(count)) for name, count in rank.parts.items()]
    rows.append((f"one rank, at {rank.moment}", _bytes(rank.total)))
    if scoring is not None:
        rows.append(("one scoring actor beside it", _bytes(scoring.total)))
    if load.others_bytes:
        rows.append(("driver, Ray, metrics and readers", _bytes(load.others_bytes)))
    if load.evaluating_bytes:
        rows.append(("evaluating the policy meanwhile", _bytes(load.evaluating_bytes)))
    many = load.device.ranks > 1 or scoring is not None or load.others_bytes > 0 or load.evaluating_bytes > 0
    if many:
        actors = f" and {load.device.scorers} scoring" if scoring is not None else ""
        rows.append((f"all on {load.device.name}: {load.device.ranks} rank{actors}", _bytes(load.total_bytes)))
    usable = load.device.usable_bytes
    verdict = "not known" if usable is None else f"{_bytes(int(usable))}{'' if load.fits else '   IT DOES NOT FIT'}"
    rows.append((f"usable on {load.device.name}", verdict))
    tokens = load.work.micro_batch_tokens
    return f"Memory of {of_what}, estimated for micro-batches of {tokens:,} tokens\n{table(rows, left=(0, 1))}"


def _time(estimate: RunEstimate) -> str:
    rows = [line for stage in estimate.stages for line in _stage(stage)]
    title = "Work, estimated; FLOPs of all ranks together"
    if estimate.peak_flops is not None:
        title += (
            f"; hours at {ASSUMED_UTILISATION:.0%} of {estimate.peak_flops / 1e12:g} TFLOP/s a rank, "
            "recomputed blocks included"
        )
    return f"{title}\n{table(rows, left=(0, 1))}"


def _stage(work: StageWork) -> list[tuple[str, str]]:
    tokens, flops = work.tokens, work.flops
    name = _STAGES[work.stage]
    lines = [
        (name, f"{work.num_steps:,} steps, {tokens.tokens:,} tokens, {tokens.supervised_pairs:,} supervised pairs"),
        ("  forward", f"{flops.forward:.3g}  ({_shares(work)})"),
        ("  backward", f"{flops.backward:.3g}"),
    ]
    extra = {"  recomputed blocks": flops.recompute, "  passes that only look": flops.looking}
    extra["  scoring actors"] = work.scoring_flops
    lines += [(label, f"{count:.3g}") for label, count in extra.items() if count]
    if work.hours is not None:
        lines.append(("  hours", f"{work.hours:,.2f}"))
    return lines


def _shares(work: StageWork) -> str:
    flops = work.flops
    parts = {
        "blocks": flops.blocks,
        "attention": flops.attention,
        "unembedding": flops.unembedding,
        "value head": flops.value_head,
    }
    return ", ".join(f"{name} {count / flops.forward:.1%}" for name, count in parts.items() if count)


def _bytes(count: int) -> str:
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / MIB:,.1f} MiB"
