"""The rows of a stage as it reads them: what prompts tell of labels, and what each row is compared with.

The stream of a rank and the export of weights read the same rows through it. Which rows, and in which order, is the
plan's.
"""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Example, Int64, RowIndex
from wmtp_ray.data.index_file import load_index
from wmtp_ray.data.prompt_label import Told, told_in_training
from wmtp_ray.data.row_edits import read_with_edits
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer, read_indexed
from wmtp_ray.data.told_index import told_index
from wmtp_ray.plan.compared_rows import ComparedRows
from wmtp_ray.run_folder import TRAIN_STAGE


@dataclass(frozen=True, eq=False)
class TrainedRows:
    """`index` counts the tokens of prompts that tell `told`; `compared` is there where the weighting compares rows."""

    index: RowIndex
    told: Told
    compared: ComparedRows | None

    @classmethod
    def of_stage(cls, config: RunConfig, stage: int) -> "TrainedRows":
        """Load the index, or indexes, of a stage; DataError as `load_index`."""
        told = told_in_training(config.data.condition) if stage == TRAIN_STAGE else "nothing"
        index = _told_index(config, told, config.data.train_file, config.data.index_file)
        if stage != TRAIN_STAGE or not config.compares_rows:
            return cls(index, told, None)
        source = None if config.compared_file is None else _told_index(config, told, config.compared_file)
        return cls(index, told, ComparedRows.of_run(index, source, config.data, config.seed))

    def read(self, row_ids_N: Int64, tokenizer: CodeTokenizer) -> list[Example]:
        """Read and tokenise rows in the order given, with their edits where rows are compared; DataError."""
        if self.compared is not None:
            return read_with_edits(row_ids_N, self.compared, tokenizer, told=self.told)
        return read_indexed(self.index, row_ids_N, tokenizer, told=self.told)


def _told_index(config: RunConfig, told: Told, file: Path, index_file: Path | None = None) -> RowIndex:
    index = load_index(file, index_file)
    return index if told == "nothing" else told_index(index, told, run_tokenizer(config))
