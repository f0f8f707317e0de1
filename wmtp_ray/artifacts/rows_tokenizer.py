"""A small SentencePiece tokenizer from the rows of a JSONL, as a model sees them: prompt, headers and program."""

from collections.abc import Iterator
from pathlib import Path

from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.index_ranges import open_jsonl
from wmtp_ray.data.rows import parse_row
from wmtp_ray.data.tokenizer import render_row

HEADERS = ("### Instruction:\n", "\n\n### Response:\n")
NUM_PIECES = 448  # what the generated problems of the quickstart give


def train_on_rows(rows: Path, model_path: Path, num_pieces: int = NUM_PIECES) -> Path:
    """Train on every row, write the model and return its path; the template's headers are one piece each.

    The same rows give the same bytes. Raises DataError for a line that is no row, and when the rows cannot give exactly
    `num_pieces` pieces.
    """
    train_tokenizer(_texts(rows), model_path, num_pieces, user_defined_symbols=HEADERS)
    return model_path


def _texts(rows: Path) -> Iterator[str]:
    with open_jsonl(rows) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield render_row(parse_row(line.rstrip(b"\r\n"), number, rows))
