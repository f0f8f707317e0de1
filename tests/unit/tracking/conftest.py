import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wmtp_ray.tracking.mlflow_run import MlflowTarget, default_uri
from wmtp_ray.tracking.mlflow_sink import MlflowSink


@pytest.fixture(scope="session")
def prepare_mlflow(tmp_path_factory) -> Callable[[Path], None]:
    """Put an MLflow file with all its tables into a storage: MLflow takes seconds to make one, so one is made."""
    original = tmp_path_factory.mktemp("mlflow")
    sink = MlflowSink(MlflowTarget(default_uri(original), "unused", "unused", {}, {}, None), original)
    sink.close("FINISHED", 120.0)
    assert sink.problems() == []

    def prepare(storage: Path) -> None:
        storage.mkdir(exist_ok=True)
        shutil.copy(original / "mlflow.db", storage / "mlflow.db")

    return prepare
