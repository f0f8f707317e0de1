"""The flags of a command line that generates list problems: one for every field of ListTasks."""

import argparse

from wmtp_ray.data.list_tasks.write import DEFAULT_TASKS, ListTasks

MEANINGS = {
    "seed": "which problems, words and programs",
    "num_train_problems": "problems to train on",
    "num_valid_problems": "held-out problems",
    "num_correct": "correct rows of a problem",
    "num_incorrect": "incorrect rows of a problem",
    "systematic_frac": "share of incorrect rows with the usual bug of an operation, where a problem has one",
    "correct_problems_frac": "share of train problems that have correct rows",
    "held_out_operations": "operations that are in no correct row",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags; what is not given is `DEFAULT_TASKS`."""
    for name, meaning in MEANINGS.items():
        default = getattr(DEFAULT_TASKS, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"{meaning} ({default})")


def tasks_of(words: argparse.Namespace) -> ListTasks:
    """Return what the flags ask for; ConfigError for a number out of range."""
    return ListTasks(**{name: getattr(words, name) for name in MEANINGS})
