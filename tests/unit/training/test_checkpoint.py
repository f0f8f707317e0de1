"""Bad luck while writing and after it: a full disk, a kill, a cut or altered file. Every checkpoint here is real."""

import json
import multiprocessing
import random
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.full_disk import files_limited_to
from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.artifacts.manifest import file_sha256, tensors_sha256
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.ranks import OneRank
from wmtp_ray.training.checkpoint import (
    RunState,
    check_checkpoints,
    find_damage,
    latest_checkpoint,
    list_checkpoints,
    read_state,
    restore,
    save_checkpoint,
    snapshot_files,
)

ARGS = ModelArgs(dim=16, n_layers=3, n_heads=2, vocab_size=11, n_future_tokens=2, multiple_of=8)
SPEC = ValueSpec("linear", 1.0, "none")
KILLS = 6


def newest_step(root: Path) -> int:
    return max((int(path.name.removeprefix("step_")) for path in list_checkpoints(root)), default=0)


def new_policy(seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    policy = Policy(Transformer(ARGS), SPEC)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    return policy


def new_optimizer(policy: Policy) -> torch.optim.AdamW:
    matrices = [parameter for parameter in policy.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in policy.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2)


def run_step(policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """A step whose gradients depend on every weight and on torch's generator."""
    optimizer.zero_grad()
    sum((parameter * torch.rand_like(parameter)).square().sum() for parameter in policy.parameters()).backward()
    optimizer.step()


def state_of(step: int, **changes: object) -> RunState:
    state = RunState(
        stage=2,
        step=step,
        plan_digest="ab12",
        scorer={"mean": 0.1 + 0.2},
        mlflow_run_id=None,
        world_size=1,
        mean_loss=1.0,
    )
    return replace(state, **changes)


def save(root: Path, step: int, *, keep: int = 9, seed: int | None = None) -> Path:
    policy = new_policy(step if seed is None else seed)
    optimizer = new_optimizer(policy)
    run_step(policy, optimizer)
    return save_checkpoint(root, state_of(step), policy, optimizer, [], OneRank(), keep=keep, keep_best=0)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def steps_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole checkpoints, step_1 and step_2, the newer with two snapshots of other content."""
    root = tmp_path_factory.mktemp("run") / "checkpoints"
    save(root, 1)
    versions = []
    for version in (0, 1):
        versions.append(root.parent / f"version_{version:08d}.safetensors")
        save_file({"w": torch.full((3,), float(version))}, versions[-1])
    policy = new_policy(2)
    optimizer = new_optimizer(policy)
    run_step(policy, optimizer)
    save_checkpoint(root, state_of(2), policy, optimizer, versions, OneRank(), keep=2, keep_best=0)
    return root


class TestRestoring:
    def test_everything_comes_back_bit_for_bit(self, tmp_path):
        policy = new_policy()
        optimizer = new_optimizer(policy)
        for _ in range(3):
            run_step(policy, optimizer)
        scorer = {"ema/mean": 0.1 + 0.2, "ema/var": 5e-324, "count": 2.0**53 + 2.0, "never": float("inf")}
        state = state_of(3, scorer=scorer, mlflow_run_id="abc", world_size=2)
        checkpoint = save_checkpoint(tmp_path, state, policy, optimizer, [], OneRank(), keep=1, keep_best=0)
        next_random = torch.rand(8)

        restored = new_policy(seed=1)
        restored_optimizer = new_optimizer(restored)
        assert restore(checkpoint, restored, restored_optimizer) == state == read_state(checkpoint)
        assert torch.equal(torch.rand(8), next_random)
        assert tensors_sha256(restored.state_dict()) == tensors_sha256(policy.state_dict())
        one, other = optimizer.state_dict(), restored_optimizer.state_dict()
        assert one["param_groups"] == other["param_groups"]
        for index, moments in one["state"].items():
            assert all(torch.equal(moments[name], other["state"][index][name]) for name in moments)

    def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(self, tmp_path):
        policy = new_policy()
        optimizer = new_optimizer(policy)
        for step in range(4):
            if step == 2:
                checkpoint = save_checkpoint(
                    tmp_path, state_of(2), policy, optimizer, [], OneRank(), keep=1, keep_best=0
                )
            run_step(policy, optimizer)

        resumed = new_policy(seed=1)
        resumed_optimizer = new_optimizer(resumed)
        restore(checkpoint, resumed, resumed_optimizer)
        for _ in range(2):
            run_step(resumed, resumed_optimizer)
        assert tensors_sha256(resumed.state_dict()) == tensors_sha256(policy.state_dict())

    def test_restored_weights_are_not_tied_to_the_files(self, tmp_path):
        checkpoint = save(tmp_path, 1)
        policy = new_policy()
        restore(checkpoint, policy, new_optimizer(policy))
        before = contents(checkpoint)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(1.0)
        assert contents(checkpoint) == before

    def test_another_value_path_is_refused(self, tmp_path):
        checkpoint = save(tmp_path, 1)
        policy = Policy(Transformer(ARGS), ValueSpec("mlp", 1.0, "none"))
        with pytest.raises(ArtifactError, match="linear"):
            restore(checkpoint, policy, new_optimizer(policy))

    def test_the_snapshots_that_are_still_needed_travel_along(self, two):
        files = snapshot_files(two / "step_2")
        assert [path.name for path in files] == [f"version_{version:08d}.safetensors" for version in (0, 1)]
        assert [path.read_bytes() for path in files] == [(two.parent / path.name).read_bytes() for path in files]


class TestSaving:
    def test_saving_changes_neither_weights_nor_optimizer_nor_the_generator(self, tmp_path):
        policy = new_policy()
        optimizer = new_optimizer(policy)
        run_step(policy, optimizer)
        moments = {f"{i}.{k}": t for i, each in optimizer.state_dict()["state"].items() for k, t in each.items()}
        before = (tensors_sha256(policy.state_dict()), tensors_sha256(moments), torch.get_rng_state().tolist())
        memory = [parameter.data_ptr() for parameter in policy.parameters()]
        save_checkpoint(tmp_path, state_of(1), policy, optimizer, [], OneRank(), keep=1, keep_best=0)
        after = (tensors_sha256(policy.state_dict()), tensors_sha256(moments), torch.get_rng_state().tolist())
        assert before == after
        assert memory == [parameter.data_ptr() for parameter in policy.parameters()]

    def test_the_newest_are_kept_by_number_not_by_name(self, tmp_path):
        for step in (8, 9, 10, 100):
            save(tmp_path, step, keep=3)
        assert steps_in(tmp_path) == ["step_10", "step_100", "step_9"]
        assert [path.name for path in list_checkpoints(tmp_path)] == ["step_9", "step_10", "step_100"]
        assert newest_step(tmp_path) == 100

    def test_saving_a_step_again_replaces_it(self, tmp_path):
        save(tmp_path, 3, seed=1)
        expected = tensors_sha256(new_policy_after_a_step(seed=2).state_dict())
        assert policy_of(save(tmp_path, 3, seed=2)) == expected
        assert steps_in(tmp_path) == ["step_3"]

    def test_the_checkpoint_just_written_is_never_the_one_removed(self, tmp_path):
        """step_20 was damaged, so the run came back to 10 and saves at 15: 15 must stay, 20 must go."""
        save(tmp_path, 10)
        (save(tmp_path, 20) / "rng.pt").unlink()
        save(tmp_path, 15, keep=1)
        assert steps_in(tmp_path) == ["step_15"]
        assert latest_checkpoint(tmp_path) == tmp_path / "step_15"

    def test_what_is_no_checkpoint_is_neither_listed_nor_removed(self, tmp_path):
        for name in ("step_x", "notes", "step_", ".step_7.0123"):
            (tmp_path / name).mkdir()
        save(tmp_path, 1, keep=1)
        assert [path.name for path in list_checkpoints(tmp_path)] == ["step_1"]
        assert steps_in(tmp_path) == ["notes", "step_", "step_1", "step_x"]

    def test_without_a_checkpoint_there_is_none(self, tmp_path):
        for root in (tmp_path, tmp_path / "absent"):
            assert (latest_checkpoint(root), list_checkpoints(root), newest_step(root)) == (None, [], 0)


class TestDamage:
    def test_whole_checkpoints_pass_in_silence(self, two):
        with no_warning():
            assert latest_checkpoint(two) == two / "step_2"
        assert [find_damage(path) for path in list_checkpoints(two)] == [None, None]

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_file_cut_at_any_byte_is_passed_over(self, two, data):
        path = data.draw(st.sampled_from(files_of(two / "step_2")), label="file")
        whole = path.read_bytes()
        cut = 2 if path.name == "manifest.json" else 1  # without its last newline it says all that it said
        num_bytes = data.draw(st.integers(0, len(whole) - cut), label="bytes left")
        with replaced(path, whole[:num_bytes]):
            assert_previous_is_used(two, path)

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_flipped_bit_anywhere_is_seen(self, two, data):
        path = data.draw(st.sampled_from(files_of(two / "step_2")), label="file")
        flipped = bytearray(path.read_bytes())
        flipped[data.draw(st.integers(0, len(flipped) - 1), label="byte")] ^= 1 << data.draw(st.integers(0, 7))
        with replaced(path, bytes(flipped)):
            assert_previous_is_used(two, path)

    def test_a_file_that_the_manifest_does_not_list_is_damage(self, two):
        """One flipped bit turns the name of version 0 into that of version 1: then nothing vouches for version 0."""
        manifest = two / "step_2" / "manifest.json"
        altered = manifest.read_text().replace("version_00000000", "version_00000001")
        with replaced(manifest, altered.encode()):
            assert "version_00000000.safetensors is not in manifest.json" in str(find_damage(two / "step_2"))
            assert_previous_is_used(two, manifest)

    def test_a_hidden_file_that_a_file_browser_left_is_no_damage(self, two):
        with no_warning():
            (two / "step_2" / "policy" / ".DS_Store").touch()
            assert latest_checkpoint(two) == two / "step_2"
        (two / "step_2" / "policy" / ".DS_Store").unlink()

    def test_a_missing_file_is_named(self, two):
        for path in files_of(two / "step_2"):
            whole = path.read_bytes()
            path.unlink()
            try:
                assert_previous_is_used(two, path)
            finally:
                path.write_bytes(whole)

    @pytest.mark.parametrize("text", ["[]", "null", '{"rng.pt": 3}', '{"rng.pt": {"sha256": "00"}}', "\udcff"])
    def test_a_foreign_manifest_is_damage_not_a_crash(self, two, text):
        with replaced(two / "step_2" / "manifest.json", text.encode("utf-8", "surrogateescape")):
            assert_previous_is_used(two, two / "step_2" / "manifest.json")

    def test_when_all_are_damaged_there_is_none_and_each_is_named(self, two):
        with (
            replaced(two / "step_1" / "rng.pt", b""),
            replaced(two / "step_2" / "optimizer.safetensors", b""),
            pytest.warns(UserWarning, match="is damaged") as caught,
        ):
            assert latest_checkpoint(two) is None
        assert [warning.message.args[0].split(" is damaged")[0] for warning in caught] == [
            f"The checkpoint {two / name}" for name in ("step_2", "step_1")
        ]

    def test_the_manifest_holds_size_and_hash_of_every_other_file(self, two):
        checkpoint = two / "step_2"
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        assert manifest == {
            str(path.relative_to(checkpoint)): {"num_bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files_of(checkpoint)
            if path.name != "manifest.json"
        }


class TestFullDisk:
    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.floats(0.0, 1.0, exclude_max=True))
    @example(0.0)
    @example(0.9999)
    def test_the_previous_checkpoint_stays_and_nothing_of_the_torn_one(self, two, share):
        largest = max(path.stat().st_size for path in files_of(two / "step_2"))
        before = contents(two)
        policy = new_policy(3)
        optimizer = new_optimizer(policy)
        run_step(policy, optimizer)
        weights = tensors_sha256(policy.state_dict())
        with files_limited_to(int(share * largest)), pytest.raises(ArtifactError) as caught:
            save_checkpoint(two, state_of(3), policy, optimizer, [], OneRank(), keep=1, keep_best=0)
        assert_says_what_to_do(str(caught.value), two, step=3)
        assert contents(two) == before
        assert steps_in(two) == ["step_1", "step_2"]
        assert latest_checkpoint(two) == two / "step_2"
        assert tensors_sha256(policy.state_dict()) == weights

    def test_once_there_is_space_again_the_same_call_succeeds(self, tmp_path):
        with files_limited_to(100), pytest.raises(ArtifactError):
            save(tmp_path, 1)
        assert find_damage(save(tmp_path, 1)) is None

    def test_a_snapshot_that_cannot_be_copied_fails_the_whole(self, tmp_path):
        policy = new_policy()
        with pytest.raises(ArtifactError) as caught:
            save_checkpoint(
                tmp_path,
                state_of(4),
                policy,
                new_optimizer(policy),
                [tmp_path / "gone"],
                OneRank(),
                keep=1,
                keep_best=0,
            )
        assert_says_what_to_do(str(caught.value), tmp_path, step=4)
        assert steps_in(tmp_path) == []

    def test_a_place_that_is_no_directory_is_said(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ArtifactError) as caught:
            save(tmp_path / "file" / "checkpoints", 1)
        assert_says_what_to_do(str(caught.value), tmp_path / "file" / "checkpoints", step=1)


def save_forever(root: Path, first_step: int) -> None:
    """Every weight of step n is n, so that a mixture of two steps would show."""
    policy = new_policy()
    optimizer = new_optimizer(policy)
    run_step(policy, optimizer)
    for step in count(first_step):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.fill_(float(step))
        save_checkpoint(root, state_of(step), policy, optimizer, [], OneRank(), keep=2, keep_best=0)


def test_a_kill_at_any_moment_of_writing_leaves_only_whole_checkpoints(tmp_path):
    """Each process saves step after step until it is killed; the next goes on from what it finds."""
    root, moments = tmp_path / "checkpoints", random.Random(0)
    # Not a fork of this process: it has threads of other tests by now, and a lock that one of them holds stays held.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([save_forever.__module__])
    reached = [0]
    torn_seen = 0
    for _ in range(KILLS):
        writer = processes.Process(target=save_forever, args=(root, reached[-1] + 1), daemon=True)
        writer.start()
        wait_for_a_checkpoint_after(root, reached[-1])
        time.sleep(moments.uniform(0.0, 0.05))
        writer.kill()
        writer.join()
        torn_seen += any(path.name.startswith(".") for path in root.iterdir())
        with no_warning():
            checkpoint = latest_checkpoint(root)
        assert checkpoint is not None
        policy = new_policy(seed=9)
        state = restore(checkpoint, policy, new_optimizer(policy))
        assert checkpoint.name == f"step_{state.step}"
        assert all(bool((parameter == float(state.step)).all()) for parameter in policy.parameters())
        reached.append(state.step)
    assert reached == sorted(set(reached)), "every round went on from the newest"
    assert torn_seen > 0, "no kill came in the middle of writing: the test proved nothing"
    save(root, reached[-1] + 1, keep=1)
    assert steps_in(root) == [f"step_{reached[-1] + 1}"], "torn directories are removed by the next save"


def wait_for_a_checkpoint_after(root: Path, step: int) -> None:
    while newest_step(root) <= step:
        time.sleep(0.001)


def new_policy_after_a_step(seed: int) -> Policy:
    policy = new_policy(seed)
    run_step(policy, new_optimizer(policy))
    return policy


def policy_of(checkpoint: Path) -> str:
    policy = new_policy(seed=99)
    restore(checkpoint, policy, new_optimizer(policy))
    return tensors_sha256(policy.state_dict())


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Give a file other content for a while, by way of a copy, so that even a failing test leaves it as it was."""
    whole = path.with_name(f".{path.name}.whole")
    shutil.move(path, whole)
    path.write_bytes(content)
    try:
        yield
    finally:
        whole.replace(path)


def assert_previous_is_used(root: Path, damaged: Path) -> None:
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert latest_checkpoint(root) == root / "step_1"
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith(f"The checkpoint {root / 'step_2'} is damaged (")
    assert damaged.name in message or damaged.name == "manifest.json"
    assert "the one before it, if any, is used" in message


def assert_says_what_to_do(message: str, root: Path, *, step: int) -> None:
    assert f"The checkpoint of step {step} could not be written to {root}" in message
    assert "free disk space" in message
    assert "--resume" in message


def test_driver_is_warned_of_a_damaged_checkpoint_and_refuses_when_none_is_whole(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert check_checkpoints(tmp_path) == []
    (tmp_path / "step_2" / "optimizer.safetensors").write_bytes(b"")
    [warning] = check_checkpoints(tmp_path)
    assert "step_2" in warning
    assert "the one before it is used" in warning
    (tmp_path / "step_1" / "state.json").unlink()
    with pytest.raises(ArtifactError, match=r"No checkpoint in .* is whole.*start over"):
        check_checkpoints(tmp_path)
    assert check_checkpoints(tmp_path / "absent") == []


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    policy = new_policy()
    optimizer = new_optimizer(policy)
    run_step(policy, optimizer)
    losses = {1: 0.9, 2: 0.3, 3: 0.5, 4: 0.4, 5: 0.8}
    kept = []
    for step, mean_loss in losses.items():
        save_checkpoint(
            tmp_path, state_of(step, mean_loss=mean_loss), policy, optimizer, [], OneRank(), keep=2, keep_best=1
        )
        kept.append(steps_in(tmp_path))
    assert kept == [
        ["step_1"],
        ["step_1", "step_2"],
        ["step_1", "step_2", "step_3"],
        ["step_2", "step_3", "step_4"],
        ["step_2", "step_4", "step_5"],
    ]
