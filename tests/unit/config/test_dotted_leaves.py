from wmtp_ray.config.dotted_leaves import differing_keys, dotted_leaves


def test_lists_and_empty_mappings_are_values():
    nested = {"train": {"max_steps": 3, "sampling": {"bins": [1, 2], "none": {}}}, "seed": 1}
    assert list(dotted_leaves(nested)) == [
        ("train.max_steps", 3),
        ("train.sampling.bins", [1, 2]),
        ("train.sampling.none", {}),
        ("seed", 1),
    ]


def test_keys_of_either_side_are_compared_and_a_missing_one_is_as_null():
    assert differing_keys({"a": 1, "b": None, "c": 3}, {"c": 4, "d": 5, "a": 1}) == ["c", "d"]
