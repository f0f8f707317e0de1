import pytest

from wmtp_ray.tracking.mlflow_names import MAX_KEY_CHARS, allowed_key, fit, flat_params, is_cut_from, metric_key

NAMES = [
    "plain/key-1.5", "a(b)", "ticket #1", "이름", "a//b", "/a", "../x", "..", ".", "", "a/", "a\nb", "x" * 400, "a:b c",
    "a/./b", "a=b,c", "tab\there",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    key = allowed_key(name)
    _validate_metric(key, 1.0, 0, 0)
    _validate_param(key, "x")
    _validate_tag(key, "x")
    assert allowed_key(key) == key


def test_names_that_would_become_one_are_told_apart():
    fitted = fit("tag", {"a(b)": "1", "a_b_": "2", "a[b]": "3", "x" * 251: "4", "x" * 252: "5"}, 10)
    assert sorted(fitted.values.values()) == ["1", "2", "3", "4", "5"]
    assert fitted.values["a_b_"] == "2", "the name that needs no change keeps it"
    assert len(fitted.changes) == 4
    assert max(map(len, fitted.values)) <= MAX_KEY_CHARS


def test_a_text_that_is_too_long_is_cut_and_said():
    fitted = fit("parameter", {"a": "x" * 12, "b": "x" * 10}, 10)
    assert fitted.values == {"a": "xxxxxxx...", "b": "x" * 10}
    assert fitted.changes == ["parameter a is cut from 12 to 10 characters"]
    assert is_cut_from(fitted.values["a"], "x" * 12)
    assert not is_cut_from("xxxy...", "x" * 12)


def test_metric_names_keep_stages_apart():
    assert metric_key("loss/total", 2) == "loss/total"
    assert metric_key("loss/total", 1) == "stage1/loss/total"
    assert metric_key("humaneval/pass@1 (n=5)", 2) == "humaneval/pass_1 _n_5_"


def test_params_are_flattened_to_texts():
    assert flat_params({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": {}}) == {
        "a.b": "1",
        "a.c.d": "None",
        "e": "[1, 2]",
        "f": "{}",
    }
