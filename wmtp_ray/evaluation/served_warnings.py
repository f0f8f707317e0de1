"""What the answers of a server give away about it, which no server says: a change of the model, draws that are none."""

from collections.abc import Mapping

from wmtp_ray.evaluation.samples import Place, Sample


def about_served(samples: Mapping[Place, Sample], answered_by: Mapping[str, int]) -> list[str]:
    """Return warnings; `answered_by` counts answers by model and server, empty for decoders of ours."""
    if not answered_by:
        return []
    warnings = []
    if len(answered_by) > 1:
        listed = ", ".join(f"{name} ({number})" for name, number in answered_by.items())
        warnings.append(f"answers come from {len(answered_by)} models, which Pass@K mixes: {listed}")
    of_problem: dict[str, list[str]] = {}
    for (task_id, _), sample in samples.items():
        of_problem.setdefault(task_id, []).append(sample.raw_completion)
    sampled = [texts for texts in of_problem.values() if len(texts) > 1]
    if sampled and all(len(set(texts)) == 1 for texts in sampled):
        warnings.append(
            "all answers to a problem are the same text, for every problem: the server does not sample (some do only "
            "where the model's generation_config.json says do_sample), so Pass@K is that of one answer"
        )
    return warnings


def nothing_was_asked(words: str) -> str:
    """Return the warning that all answers were there before, of `words`, a served model."""
    return (
        f"all answers were in the folder already and the server was not asked: if {words} is another model by now, "
        "evaluate into a new folder (--out)"
    )
