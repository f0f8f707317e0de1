"""Randomness of a plan: seeded keys, and the draws and orders made from them.

Every use names itself by labels, so that no draw depends on how many others came before it. Only raw 64-bit output of
Philox is used, which numpy keeps stable across versions and machines; `Generator.choice` and `shuffle` it does not.
Never reads the clock, `hash()` or the order of a set.
"""

import hashlib
import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wmtp_ray.contracts import Int32, Int64

Keys = npt.NDArray[np.uint64]
Integers = TypeVar("Integers", Int32, Int64)


def random_keys(num: int, seed: int, *labels: str | int) -> Keys:
    """Return `num` uniform 64-bit keys of the stream that the seed and the labels name."""
    name = "\x1f".join(map(str, (seed, *labels)))
    stream = np.random.Philox(key=int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little"))
    return np.asarray(stream.random_raw(num), dtype=np.uint64)


def draw(values_N: Integers, num: int, seed: int, *labels: str | int) -> Integers:
    """Draw `num` of the values without replacement, in random order.

    Each value gets a random key; drawn are the smallest keys, in the order of the keys. Only keys below a threshold
    that `num` of them pass almost surely are sorted, so that a small draw from millions of rows stays cheap.
    """
    assert 0 <= num <= len(values_N)
    keys_N = random_keys(len(values_N), seed, *labels)
    passing_frac = (num + 8 * math.sqrt(num) + 16) / max(len(values_N), 1)
    near = np.arange(len(values_N))
    if passing_frac < 1.0:
        near = np.flatnonzero(keys_N < np.uint64(int(passing_frac * 2.0**64)))
        near = near if len(near) >= num else np.arange(len(values_N))
    return values_N[near[np.argsort(keys_N[near], kind="stable")[:num]]]


def shuffled(values_N: Integers, seed: int, *labels: str | int) -> Integers:
    """Return the values (or the rows of a matrix) in random order."""
    return values_N[np.argsort(random_keys(len(values_N), seed, *labels), kind="stable")]
