"""Write a run's params, metrics and artifacts from MLflow to a folder that needs no MLflow to be read."""

import argparse
import sys
from pathlib import Path

from wmtp_ray.cli.ends import exit_code_of
from wmtp_ray.interrupts import end_on_signals
from wmtp_ray.tracking.mlflow_export import export_mlflow_run
from wmtp_ray.tracking.mlflow_run import default_uri


def main() -> int:
    """Export the run that the command line names; return the exit code (0 done, 2 refused)."""
    return exit_code_of(_export)


def _export() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="its name, or MLflow's id of it")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder, or none yet")
    parser.add_argument("--storage", type=Path, default=Path("storage"), help="whose mlflow.db is read (storage)")
    parser.add_argument("--uri", help="address of an MLflow server instead")
    words = parser.parse_args()
    num_points = export_mlflow_run(words.uri or default_uri(words.storage.absolute()), words.run, words.out)
    print(f"{words.out}: {num_points:,} points of metrics, and what the run uploaded")


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
