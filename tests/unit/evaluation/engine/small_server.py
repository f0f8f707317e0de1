"""A small HTTP server in a thread that answers as a test says: whole answers, refusals, half answers, silence."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request as it came: `number` counts all of them from 0, `times` those with the same body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    number: int
    times: int


@dataclass(frozen=True)
class Reply:
    """An answer: `wait_s` before it, and only the first `sent_frac` of its bytes before the connection breaks."""

    status: int = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    sent_frac: float = 1.0


Answer = Callable[[Asked], Reply]


def completion(text: str, finish: str = "stop", *, tokens: int | None = 3, model: str = "served-1") -> Reply:
    """A whole answer of the completions API."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": 1, "completion_tokens": tokens}}
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return Reply(content=json.dumps({"id": "x", "model": model, "choices": [choice], **usage}).encode())


def chat(text: str | None) -> Reply:
    """A whole answer of the chat API."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply(content=json.dumps({"model": "served-1", "choices": [choice]}).encode())


def models(*names: str, root: str | None = None) -> Reply:
    """A list of models."""
    listed = [{"id": name, "object": "model"} | ({} if root is None else {"root": root}) for name in names]
    return Reply(content=json.dumps({"object": "list", "data": listed}).encode())


@dataclass
class SmallServer:
    """What came so far, and where to send more; `at_once` is the most requests that were there at a time."""

    url: str
    asked: list[Asked]
    at_once: int = 0


@contextmanager
def answering(answer: Answer, port: int = 0) -> Iterator[SmallServer]:
    """Serve at a port of this machine, 0 for a free one, until the block ends."""
    lock, open_requests, ended = threading.Lock(), [0], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: dict[str, Any]) -> None:
            with lock:
                open_requests[0] += 1
                found.at_once = max(found.at_once, open_requests[0])
                times = sum(each.body == body and each.path == self.path for each in found.asked)
                asked = Asked(self.path, dict(self.headers), body, len(found.asked), times)
                found.asked.append(asked)
            try:
                self._send(answer(asked))
            except OSError:
                self.close_connection = True  # the client has given up
            finally:
                with lock:
                    open_requests[0] -= 1

        def _send(self, reply: Reply) -> None:
            ended.wait(reply.wait_s)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content[: round(len(reply.content) * reply.sent_frac)])
            self.close_connection = reply.sent_frac < 1.0

        def log_message(self, format: str, *values: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    found = SmallServer(f"http://127.0.0.1:{server.server_port}/v1", [])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
