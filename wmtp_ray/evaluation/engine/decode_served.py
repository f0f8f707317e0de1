"""Have a server continue many requests: so many in flight, failures repeated, answers given out as they come.

    requests -> n lanes, each with one request at a time -> answers, in order of completion

A lane repeats a request that found no answer (`server.py` says which do), waiting longer each time. While any lane
gets answers, the others may go on repeating; nothing from any lane for `engine.silence_s` is the end. A refusal is the
end as well, once what is in flight has come back. Either way every answer that came is given out before the error.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import httpx2

from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.errors import EngineError
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.engine.back_off import BackOff
from wmtp_ray.evaluation.engine.messages import ENDPOINTS, Torn, read_answer, request_body
from wmtp_ray.evaluation.engine.server import Refused, Unanswered, api_key, content_of, headers, lost, remedy
from wmtp_ray.evaluation.served import ServedModel

_LOOK_S = 0.2  # between two looks at the clock
_LOG = logging.getLogger(__name__)
_KEPT = "finished answers are kept: the same command goes on"


def decode_served(
    engine: EngineConfig, served: ServedModel, requests: Sequence[DecodingRequest], settings: DecodingSettings
) -> Iterator[Decoded]:
    """Yield the server's answer to every request as it comes; the requests go on while the caller is busy.

    Raises EngineError, after the answers that came before it, for a server that is silent for `engine.silence_s` or
    refuses; ConfigError for a key that no header can carry.
    """
    lanes = _Lanes(engine, served, requests, settings, api_key(engine))
    thread = threading.Thread(target=lanes.run, name="engine", daemon=True)
    thread.start()
    try:
        while (found := lanes.found.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        lanes.stop()
        thread.join()


class _Lanes:
    """An event loop in a thread of its own. `found` takes answers, then None or an error."""

    def __init__(
        self,
        engine: EngineConfig,
        served: ServedModel,
        requests: Sequence[DecodingRequest],
        settings: DecodingSettings,
        key: str | None,
    ) -> None:
        self.found: queue.SimpleQueue[Decoded | BaseException | None] = queue.SimpleQueue()
        self._engine, self._served, self._settings, self._key = engine, served, settings, key
        self._waiting = deque(requests)
        self._num_missing = len(requests)
        self._refusal: EngineError | None = None
        self._last_failure = "the server has not said a word"
        self._warned: set[str] = set()
        self._answered_s = time.monotonic()
        self._stopped = threading.Event()
        self._ending = asyncio.Event()

    def run(self) -> None:
        """Answer all requests; the target of the thread."""
        try:
            asyncio.run(self._answer_all())
        except BaseException as error:  # the edge of a thread: the caller raises it
            self.found.put(error)
        else:
            self.found.put(None)

    def stop(self) -> None:
        """Give up what is in flight; without effect once all is done."""
        self._stopped.set()

    async def _answer_all(self) -> None:
        num_lanes = min(self._engine.max_in_flight, len(self._waiting))
        limits = httpx2.Limits(max_connections=num_lanes, max_keepalive_connections=num_lanes)
        async with httpx2.AsyncClient(headers=headers(self._key), timeout=None, limits=limits) as client:
            lanes = {asyncio.create_task(self._lane(client)) for _ in range(num_lanes)}
            try:
                await self._watch(lanes)
            finally:
                for lane in lanes:
                    lane.cancel()
                await asyncio.gather(*lanes, return_exceptions=True)
        if self._refusal is not None:
            raise self._refusal

    async def _watch(self, lanes: set[asyncio.Task[None]]) -> None:
        """Wait for all lanes; raises EngineError when none of them has got an answer for long."""
        while lanes and not self._stopped.is_set():
            done, lanes = await asyncio.wait(lanes, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for lane in done:
                lane.result()
            if lanes and time.monotonic() - self._answered_s > self._engine.silence_s:
                raise EngineError(self._silence())

    async def _lane(self, client: httpx2.AsyncClient) -> None:
        while self._waiting and self._refusal is None:
            request = self._waiting.popleft()
            try:
                decoded = await self._answered(client, request)
            except Refused as refused:
                self._refusal = self._refusal or self._refused(request, refused)
                self._ending.set()
                return
            if decoded is not None:
                self.found.put(decoded)
                self._num_missing -= 1
                self._answered_s = time.monotonic()

    async def _answered(self, client: httpx2.AsyncClient, request: DecodingRequest) -> Decoded | None:
        """Ask until there is an answer; None once another request was refused, which ends it all."""
        back_off = BackOff(request.seed)
        while self._refusal is None:
            try:
                content = await self._exchanged(client, request)
                return read_answer(content, request, self._settings, self._served, send_seed=self._engine.send_seed)
            except (Unanswered, Torn) as failure:
                self._note(failure)
                wait_s = back_off.next_s(getattr(failure, "retry_after_s", None))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), wait_s)
        return None

    async def _exchanged(self, client: httpx2.AsyncClient, request: DecodingRequest) -> bytes:
        served, engine = self._served, self._engine
        body = request_body(request, self._settings, served, send_seed=engine.send_seed)
        try:
            async with asyncio.timeout(engine.request_s):
                response = await client.post(f"{served.url}{ENDPOINTS[served.api]}", json=body)
        except TimeoutError as error:
            raise Unanswered(f"no answer within {engine.request_s:g} s (engine.request_s)") from error
        except httpx2.RequestError as error:
            raise lost(error) from error
        return content_of(response, self._key, datetime.now(UTC))

    def _note(self, failure: Exception) -> None:
        """Keep the newest failure for the error, and warn of the first of each kind."""
        self._last_failure = str(failure)
        kind = self._last_failure.partition(":")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            _LOG.warning("The server %s failed a request, which is repeated: %s", self._served.url, failure)

    def _silence(self) -> str:
        engine = self._engine
        return (
            f"{self._served.words} gave no answer for {engine.silence_s:g} s (engine.silence_s), {self._num_missing} "
            f"are missing; its last failure: {self._last_failure}. See whether the server runs, and start it again at "
            "the same address; where it is only slow, lower engine.max_in_flight, or raise engine.request_s and "
            f"engine.silence_s; {_KEPT}"
        )

    def _refused(self, request: DecodingRequest, refused: Refused) -> EngineError:
        return EngineError(
            f"{self._served.words} refused the request {request.key}: {refused}; {remedy(refused, self._engine)}; "
            f"{_KEPT}"
        )
