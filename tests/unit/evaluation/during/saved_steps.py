"""Results of an evaluated step, as an evaluator leaves them."""

from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.evaluation.pass_at_k import Counts, estimate_pass_at_k
from wmtp_ray.evaluation.results import EvaluationResults, ProblemResult, Sources, write_results

NUM_PROBLEMS = 4


def save_step(scores: StepScores, step: int, num_correct: int) -> None:
    """Write the results of a policy that answered `num_correct` of four problems correctly, one answer each."""
    passed = [int(number < num_correct) for number in range(NUM_PROBLEMS)]
    results = EvaluationResults(
        key="ab",
        identity={},
        sources=Sources("mbpp", "mbpp.jsonl", (), "policy", None),
        pass_at_k={"1": estimate_pass_at_k([Counts(1, each) for each in passed], 1)},
        verdicts={"pass": num_correct, "fail": NUM_PROBLEMS - num_correct},
        problems=tuple(
            ProblemResult(f"p{number}", 1, each, ("pass" if each else "fail",), None)
            for number, each in enumerate(passed)
        ),
        decoding=None,
        excluded=(),
        warnings=(),
        seconds=1.0,
    )
    write_results(scores.folder_of(step), results)
