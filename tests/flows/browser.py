"""Chromium without a window, spoken to over two pipes (the DevTools protocol): enough to look at one page.

Every message of the page that is an error (exceptions, console.error, refused loads) is kept in `errors`.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
WAIT_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
)


def find_chromium() -> str | None:
    """Return the browser's path, or None where none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


class Page:
    """One tab."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer, self._last_id, self._session = b"", 0, ""
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, *, width: int, scheme: str = "light", ready: str = "true") -> None:
        """Load a file at a width in CSS pixels and wait until the expression `ready` holds."""
        height = 844 if width < 600 else 900
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        self.set_media(scheme)
        self._call("Page.navigate", url=path.as_uri())
        self.wait_for(f"document.readyState === 'complete' && ({ready})")

    def set_media(self, scheme: str, media: str = "screen") -> None:
        """Choose light or dark, screen or print."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        give_up = time.monotonic() + WAIT_S
        while not self.run(expression):
            assert time.monotonic() < give_up, f"waited {WAIT_S:.0f} s for {expression}; errors: {self.errors}"
            time.sleep(0.05)

    def screenshot(self, out: Path, selector: str | None = None) -> Path:
        """Save the whole page, or the part that a selector finds, as PNG."""
        box = f"document.querySelector({json.dumps(selector or 'html')}).getBoundingClientRect()"
        x, y, width, height = self.run(f"(b => [b.x + scrollX, b.y + scrollY, b.width, b.height])({box})")
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        answer = self._call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(base64.b64decode(answer["data"]))
        return out

    def print_to_pdf(self, out: Path) -> Path:
        """Save the page as it prints on A4."""
        answer = self._call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        out.write_bytes(base64.b64decode(answer["data"]))
        return out

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str([each.get("value", each.get("description")) for each in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])


@contextmanager
def open_browser() -> Iterator[Page]:
    """Start the browser and yield its one tab."""
    chromium = find_chromium()
    assert chromium is not None
    commands, answers = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        # The browser reads commands from descriptor 3 and writes answers to 4.
        line = [chromium, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        shell = f"exec {' '.join(map(json.dumps, line))} 3<&{commands[0]} 4>&{answers[1]}"
        process = subprocess.Popen(
            ["bash", "-c", shell],
            pass_fds=(commands[0], answers[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield Page(commands[1], answers[0])
        finally:
            os.close(commands[1])
            os.close(answers[0])
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
