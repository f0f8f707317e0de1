"""All sections of a report in their order, over whatever runs, sweeps and runs in rounds were given."""

from collections.abc import Sequence

from wmtp_ray.report.arms import Arm, group_runs, reference_arm
from wmtp_ray.report.blocks import Section, names_of
from wmtp_ray.report.comparison import compare_datasets
from wmtp_ray.report.page import render_page
from wmtp_ray.report.saved_rounds import SavedRounds
from wmtp_ray.report.saved_run import SavedRun
from wmtp_ray.report.saved_sweep import SavedSweep
from wmtp_ray.report.sections.critic_section import critic_section
from wmtp_ray.report.sections.learning_section import learning_section
from wmtp_ray.report.sections.pace_section import throughput_section, waiting_section
from wmtp_ray.report.sections.pass_at_k_section import pass_at_k_section
from wmtp_ray.report.sections.record_section import configuration_section, warnings_section
from wmtp_ray.report.sections.rounds_section import rounds_section
from wmtp_ray.report.sections.summary_section import arms_in_words, summary_section
from wmtp_ray.report.sections.sweep_section import sweep_section
from wmtp_ray.report.sections.tokens_section import tokens_section
from wmtp_ray.report.sections.weights_section import weights_section

MOST_SWEPT_POINTS = 6  # whose runs are shown in full


def render_document(
    runs: Sequence[SavedRun], sweeps: Sequence[SavedSweep], made: str, rounds: Sequence[SavedRounds] = ()
) -> str:
    """Return the page of at least one run, sweep or run in rounds.

    Shown in full are the runs of a sweep's best points, and the last round of a run in rounds.
    """
    every_run = [*runs, *(run for sweep in sweeps for run in runs_of_best_points(sweep))]
    every_run += [each.runs[-1] for each in rounds if each.runs]
    sections = [sweep_section(sweep, number) for number, sweep in enumerate(sweeps, start=1)]
    sections += [rounds_section(rounds)] if rounds else []
    chains: list[SavedSweep | SavedRounds] = [*sweeps, *rounds]
    if not every_run:
        return render_page(chains[0].name, "No run of it has begun yet.", made, sections)
    arms = group_runs(every_run)
    return render_page(_title(every_run, arms, chains), arms_in_words(arms), made, [*sections, *sections_of(arms)])


def runs_of_best_points(sweep: SavedSweep) -> list[SavedRun]:
    """Return the trials' runs of the points that stand first in the ranking."""
    return [run for point in sweep.points[:MOST_SWEPT_POINTS] for run in sweep.runs.get(point.point, ())]


def _title(runs: Sequence[SavedRun], arms: Sequence[Arm], chains: Sequence[SavedSweep | SavedRounds]) -> str:
    if chains:
        return names_of([each.name for each in chains])
    if len(runs) == 1:
        return runs[0].name
    return f"{len(arms)} arms compared" if len(arms) > 1 else f"{arms[0].name}, {len(runs)} seeds"


def sections_of(arms: Sequence[Arm]) -> list[Section]:
    """Return the sections; each is there for any runs, and says so where it has nothing to show."""
    reference = reference_arm(arms)
    comparisons = compare_datasets(arms, reference)
    return [
        summary_section(arms, comparisons, reference),
        pass_at_k_section(arms, comparisons, reference),
        learning_section(arms),
        weights_section(arms),
        critic_section(arms),
        tokens_section(arms),
        waiting_section(arms),
        throughput_section(arms),
        configuration_section(arms),
        warnings_section(arms),
    ]
