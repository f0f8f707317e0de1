"""Where a run's numbers go: metrics.jsonl always, MLflow when it answers, a progress line, result.json at the end.

Import from the modules: `metrics_file`, `mlflow_sink`, `tracker`, `result`, `progress`. Nothing here starts an actor;
one process owns a `Tracker` and all other processes send it StepReports.
"""
