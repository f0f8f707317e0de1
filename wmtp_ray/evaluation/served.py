"""What is known of a server that answers: its model by name, and where each answer of it comes from. No torch."""

from dataclasses import dataclass

from wmtp_ray.config.engine import Api


@dataclass(frozen=True)
class ServedModel:
    """A model by its address and name. `root` is where the server says that it took it from, None where it does not."""

    url: str
    api: Api
    model: str
    root: str | None

    @property
    def words(self) -> str:
        """Name it for people."""
        return f"{self.model} at {self.url}"


@dataclass(frozen=True)
class Served:
    """Where an answer of a server comes from: its own name for the model, its address without credentials.

    `seed` is the one that was sent, which no server has to honour; None: none was. `num_tokens` is the server's count
    of the answer's tokens, 0 where it gives none.
    """

    model: str
    url: str
    seed: int | None
    num_tokens: int

    @property
    def words(self) -> str:
        """Name it for people."""
        return f"{self.model} at {self.url}"
