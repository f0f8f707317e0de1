"""Decoding rests where its thread had to wait for a core, and only there."""

import pytest

from wmtp_ray.evaluation.during.give_way import RESTS, GivesWay


class Times:
    """A thread's own time and that on the wall, and its rests."""

    def __init__(self) -> None:
        self.wall_s = self.own_s = 0.0
        self.rests: list[float] = []
        self.gives_way = GivesWay(lambda: self.wall_s, lambda: self.own_s, self.rests.append)

    def work(self, wall_s: float, own_s: float) -> None:
        self.wall_s += wall_s
        self.own_s += own_s
        self.gives_way()


@pytest.mark.parametrize(
    ("wall_s", "own_s", "expected"),
    [
        (0.1, 0.1, []),  # a core of its own
        (0.1, 0.06, []),
        (0.1, 0.01, [RESTS * 0.1]),  # others had it nine tenths of the time
        (50.0, 0.01, [RESTS * 10.0]),
    ],
)
def test_it_rests_where_others_want_the_core(wall_s, own_s, expected):
    times = Times()
    times.gives_way()
    times.work(wall_s, own_s)
    assert times.rests == pytest.approx(expected)


def test_what_was_before_the_first_stretch_does_not_count():
    times = Times()
    times.wall_s = 0.5
    times.gives_way()
    times.gives_way.begin()  # the next policy has come
    times.work(50.0, 0.01)
    assert times.rests == []
