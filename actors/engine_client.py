"""The client of a server that decodes, as a Ray actor in place of the decoders. It holds no model."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from actors.stalls import enter_run
from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.engine import decode_served
from wmtp_ray.evaluation.served import ServedModel


class EngineClient:
    """Asks one server. The key comes from the environment of this process, never in a message of Ray's."""

    def __init__(self, engine: EngineConfig, served: ServedModel, directory: Path, *, has_key: bool) -> None:
        enter_run(directory, "engine_client")
        self._engine, self._served, self._has_key = engine, served, has_key
        enter_run(directory, "engine_client", is_ready=True)

    def ready(self) -> bool:
        """Return True; ConfigError where the driver has a key and this process, on another node perhaps, has none."""
        name = self._engine.api_key_env
        if self._has_key and not os.environ.get(name):
            raise ConfigError(
                f"{name} is set where the command runs and not in Ray's processes, which ask the server; set it in "
                "the environment of `ray start` too, since a key is never sent in a message"
            )
        return True

    def decode(self, requests: Sequence[DecodingRequest], settings: DecodingSettings) -> Iterator[Decoded]:
        """Yield every answer as it comes, in no order: what was yielded cannot be repeated after a death."""
        yield from decode_served(self._engine, self._served, requests, settings)
