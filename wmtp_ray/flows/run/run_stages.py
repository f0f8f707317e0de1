"""All stages of a run in order, on one Ray: those that train, then the evaluation."""

from collections.abc import Sequence

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.evaluate.evaluate import OtherSettings
from wmtp_ray.flows.evaluate.evaluate_run import evaluate_run
from wmtp_ray.flows.evaluate.evaluation_workers import require_evaluation_resources
from wmtp_ray.flows.run.prepare import Prepared
from wmtp_ray.flows.run.train import train
from wmtp_ray.tracking.decisions import note_start
from wmtp_ray.tracking.result import RunResult, read_result
from wmtp_ray.tracking.run_log import driver_log


def run_stages(config: RunConfig, prepared: Prepared, also: Sequence[OtherSettings] = ()) -> RunResult:
    """Run the stages of `config` and leave result.json; an evaluation alone keeps what training left there.

    Stage 3 evaluates with the settings of `also` as well.

    Raises Interrupted or KeyboardInterrupt after a stop, WmtpError for what the user can fix.
    """
    with joined(config.cluster.num_cpus), driver_log(config.run_dir):
        if prepared.evaluation is not None and prepared.evaluation.datasets:
            require_evaluation_resources(config, with_decoders=True)  # not after hours of training
        keeps_result = config.stages == (3,) and config.folder.result.exists()
        if keeps_result:
            note_start(config, done_before=())
        result = read_result(config.run_dir) if keeps_result else train(config, prepared)
        if prepared.evaluation is None:
            return result
        return evaluate_run(config, prepared.evaluation, result, also)
