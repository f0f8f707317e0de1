"""The generated benchmark of the quickstart: small list problems in words, answered by proved Python programs.

operations.py: the language and its reference semantics; list_problems.py: the prompts, and the bugs; programs.py:
program text in several styles; labelled_programs.py: correct and incorrect programs of a problem; write.py: the files;
flags.py: the flags that choose them. No torch, no ray; it trains nothing and judges nothing but its own programs.
"""

from wmtp_ray.data.list_tasks.write import DEFAULT_TASKS, ListTasks, ListTasksFiles, write_list_tasks

__all__ = ["DEFAULT_TASKS", "ListTasks", "ListTasksFiles", "write_list_tasks"]
