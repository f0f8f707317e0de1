"""Where a run's numbers go: metrics.jsonl always, trackers (`tracking.sinks`), a progress line, at the end result.json.

Import from the modules: `metrics_file`, `open_sinks`, `mlflow_sink`, `tracker`, `result`, `progress`. Nothing here
starts an actor; one process owns a `Tracker` and all other processes send it StepReports.
"""
