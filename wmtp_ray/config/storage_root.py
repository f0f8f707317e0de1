"""Where a run may be kept: never inside the copy of a working directory that Ray makes for a job and deletes after it.

`ray job submit --working-dir .` runs the command in SESSION/runtime_resources/working_dir_files/_ray_pkg_<hash>, on
every node in a copy of its own. A relative `storage_root` would count from there.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_RAY_COPIES = "working_dir_files"


def _outlives_the_job(path: Path) -> Path:
    if _RAY_COPIES in path.parts:
        raise ValueError(
            f"found {path}, which is in the copy of the working directory that Ray made for this job and deletes "
            "after it, so the run would be lost; give an absolute path that every node sees: storage_root=/DIR"
        )
    return path


StorageRoot = Annotated[Path, AfterValidator(_outlives_the_job)]
