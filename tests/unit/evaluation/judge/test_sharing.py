import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.evaluation.judge.sharing import share_parts, shared_parts


def shape(value: object, seen: dict[int, int]) -> object:
    """Write a value with a number for each list and dict, the same where it is the same object."""
    if not isinstance(value, list | dict):
        return value
    number = seen.setdefault(id(value), len(seen))
    inner = value.values() if isinstance(value, dict) else value
    return number, [shape(item, seen) for item in inner]


def test_two_places_of_one_object_are_told():
    row = [0, 0]
    assert shared_parts([[row, row], {}]) == [[[0, 0], [0, 1]]]
    assert shared_parts([[0, 0], [0, 0], (1, 1), "ab"]) == []


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6))
def test_a_copy_gets_the_shape_of_the_original(rows):
    """Containers that hold earlier ones, by number, some of them twice."""
    made: list[object] = [[]]
    for row in rows:
        items = [made[number % len(made)] for number in row]
        made.append(items if len(row) % 2 else dict(enumerate(items)))
    value = made[-1]
    tree = eval(repr(value))  # equal, and no object twice
    share_parts(tree, shared_parts(value))
    assert tree == value
    assert shape(tree, {}) == shape(copy.deepcopy(value), {})
