"""Messages between the judge and its zygotes: JSON with file descriptors, over a connected Unix socket.

Neither programs nor tests travel here: they stand in files whose descriptors are passed on, so that a zygote never
holds what a child of it must not know.
"""

import json
import os
import socket
from typing import Any

_HEADER_BYTES = 4
_MAX_DESCRIPTORS = 8


def send_message(control: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    """Send one message; the receiver gets its own copies of the descriptors."""
    body = json.dumps(message).encode()
    socket.send_fds(control, [len(body).to_bytes(_HEADER_BYTES, "big")], descriptors)
    control.sendall(body)


def receive_message(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and its descriptors. Raises EOFError when the other side is gone."""
    header, descriptors, _, _ = socket.recv_fds(control, _HEADER_BYTES, _MAX_DESCRIPTORS)
    try:
        if not header:
            raise EOFError
        header += _read(control, _HEADER_BYTES - len(header))
        message: dict[str, Any] = json.loads(_read(control, int.from_bytes(header, "big")))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return message, list(descriptors)


def _read(control: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        part = control.recv(num_bytes - len(data))
        if not part:
            raise EOFError
        data += part
    return data
