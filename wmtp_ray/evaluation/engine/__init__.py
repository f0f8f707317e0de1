"""Decoding by a server over OpenAI's API, behind the requests and answers of `evaluation/decoding`. No torch."""

from wmtp_ray.evaluation.engine.decode_served import decode_served
from wmtp_ray.evaluation.engine.served_model import find_served_model
from wmtp_ray.evaluation.engine.server import api_key

__all__ = ["api_key", "decode_served", "find_served_model"]
