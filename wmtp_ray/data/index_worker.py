"""A process that indexes ranges of one JSONL: `python -m wmtp_ray.data.index_worker FILE LABELS_ELSEWHERE`.

Reads one range a line from stdin ("start stop"), answers each with a frame on stdout, and exits when stdin is closed:
so it exits when its parent exits or needs it no more. `index_processes.py` starts it; it is not a user's command.
"""

import sys
from pathlib import Path
from typing import IO

import msgspec

from wmtp_ray.data.index_ranges import RangeRows, scan_range

SIZE_BYTES = 8  # of the number that opens a frame


def write_frame(stream: IO[bytes], rows: RangeRows) -> None:
    """Write a size and as many bytes of MessagePack."""
    content = msgspec.msgpack.encode(rows)
    stream.write(len(content).to_bytes(SIZE_BYTES, "little"))
    stream.write(content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> RangeRows | None:
    """Read what `write_frame` wrote; None when the stream ends before it is whole."""
    size = stream.read(SIZE_BYTES)
    num_bytes = int.from_bytes(size, "little")
    content = stream.read(num_bytes)
    if len(size) < SIZE_BYTES or len(content) < num_bytes:
        return None
    return msgspec.msgpack.decode(content, type=RangeRows)


def main(path: str, labels_elsewhere: str) -> None:
    """Answer each range of stdin until stdin ends or the reader of stdout is gone."""
    for line in sys.stdin.buffer:
        start, stop = map(int, line.split())
        rows = scan_range(Path(path), start, stop, labels_elsewhere=labels_elsewhere == "True")
        try:
            write_frame(sys.stdout.buffer, rows)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
