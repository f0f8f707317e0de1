"""Tags of a run, and the names among them that are MLflow's own."""

from typing import Annotated

from pydantic import AfterValidator

_PREFIX = "mlflow."
OF_THE_RUN = "ran."  # what the run itself tags: `wmtp_ray/tracking/decisions.py`
_MAY_BE_GIVEN = (
    "mlflow.note.content",
    "mlflow.parentRunId",
    "mlflow.user",
    "mlflow.source.name",
    "mlflow.source.git.commit",
    "mlflow.source.git.branch",
    "mlflow.source.git.repoURL",
)


def _not_reserved(tags: dict[str, str]) -> dict[str, str]:
    reserved = [name for name in tags if name.startswith(_PREFIX) and name not in _MAY_BE_GIVEN]
    if reserved:
        raise ValueError(
            f"found the tag {', '.join(reserved)}; names that begin with {_PREFIX} are MLflow's own, of which "
            f"{', '.join(_MAY_BE_GIVEN)} may be given (the run's name there is run_name): choose another name"
        )
    ours = [name for name in tags if name.startswith(OF_THE_RUN)]
    if ours:
        raise ValueError(
            f"found the tag {', '.join(ours)}; names that begin with {OF_THE_RUN} are those under which a run records "
            "what was decided while it ran: choose another name"
        )
    return tags


Tags = Annotated[dict[str, str], AfterValidator(_not_reserved)]
