"""Decoding for evaluation, batched and cached. Plain or drafted by the prediction heads: the tokens are the same."""

from wmtp_ray.evaluation.decoding.audit import AuditReport, audit
from wmtp_ray.evaluation.decoding.decode import decode
from wmtp_ray.evaluation.decoding.decoding_request import (
    Decoded,
    DecodingRequest,
    DecodingSettings,
    DecodingStatistics,
)
from wmtp_ray.evaluation.decoding.token_choice import request_seed

__all__ = [
    "AuditReport",
    "Decoded",
    "DecodingRequest",
    "DecodingSettings",
    "DecodingStatistics",
    "audit",
    "decode",
    "request_seed",
]
