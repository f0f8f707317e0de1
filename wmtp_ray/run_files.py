"""Names of files in a run's folder that several layers read. Names only: one module writes each file.

| file | written by |
|---|---|
| config.yaml | `preflight/run_directory.py` |
| stage_result.json | `training/stages.py` |
"""

CONFIG_FILE = "config.yaml"
STAGE_RESULT_FILE = "stage_result.json"
