"""A CPU process around the tensors: the estimate beside peaks that were measured once (bench/results/memory.md)."""

from dataclasses import replace

import pytest

from tests.unit.training.rank_work import CPU_WORK
from wmtp_ray.model.spec import TARGETS, ModelSpec
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.training.estimate.fit import Device, Load, ScorerWork
from wmtp_ray.training.estimate.memory import MIB, Lora, RankWork, rank_memory
from wmtp_ray.training.estimate.process_overhead import machine_bytes

SMOLLM2 = ModelSpec(  # SmolLM2-135M with four prediction heads, as `wmtp import` writes it
    dim=576, n_layers=33, n_heads=9, n_kv_heads=3, vocab_size=49152, n_future_tokens=4
)
WEIGHTS_BYTES = 693_818_368
NANO = ModelSpec(dim=96, n_layers=6, n_heads=4, vocab_size=448, n_future_tokens=4, multiple_of=32)  # the quickstart's
WORK = CPU_WORK
WITH_LORA = replace(WORK, lora=Lora(8, TARGETS))


def load_of(work: RankWork, *, is_machine: bool = True) -> Load:
    device = Device("this machine", None, ranks=1, scorers=1, is_machine=is_machine)
    scorer = ScorerWork(SMOLLM2, work.value, autocast=False, has_adapters=work.lora is not None)
    others = machine_bytes(sinks=()) if is_machine else 0
    return Load(SMOLLM2, work, scorer, device, 512, weights_bytes=WEIGHTS_BYTES, others_bytes=others)


@pytest.mark.parametrize(
    ("work", "measured_mib"),
    [
        (WITH_LORA, 3690),  # a rank of a run, VmHWM
        (WORK, 4620),  # two steps in one process
        (replace(WITH_LORA, micro_batch_tokens=400), 2112),
    ],
    ids=["LoRA", "all weights", "LoRA, short micro-batches"],
)
def test_a_rank_of_an_imported_model_is_within_15_percent(work: RankWork, measured_mib: int) -> None:
    assert load_of(work).rank().total / MIB == pytest.approx(measured_mib, rel=0.15)


def test_the_whole_machine_is_within_15_percent() -> None:
    assert load_of(WITH_LORA).total_bytes / MIB == pytest.approx(6678, rel=0.15)


def test_a_nano_model_is_nearly_all_libraries_and_within_15_percent_too() -> None:
    """The quickstart's run, twice: a rank of 668 and 716 MiB, the machine of 2636 and 2954."""
    value = ValueSpec("mlp", 1.0, "none")
    work = replace(WORK, micro_batch_tokens=1611, value=value)
    device = Device("this machine", None, ranks=1, scorers=1, is_machine=True)
    scorer = ScorerWork(NANO, value, autocast=False)
    load = Load(NANO, work, scorer, device, 256, weights_bytes=3_100_000, others_bytes=machine_bytes(sinks=("mlflow",)))
    for rank_mib, machine_mib in ((668, 2636), (716, 2954)):
        assert load.rank().total / MIB == pytest.approx(rank_mib, rel=0.15)
        assert load.total_bytes / MIB == pytest.approx(machine_mib, rel=0.15)


def test_a_scoring_actor_holds_its_version_s_file_while_it_loads() -> None:
    scoring = load_of(WITH_LORA).scoring()
    assert scoring is not None
    assert scoring.total / MIB == pytest.approx(1392, rel=0.15)
    assert scoring.moment == "reading the weights"


def test_a_gpu_holds_tensors_alone() -> None:
    assert load_of(WORK, is_machine=False).rank() == rank_memory(SMOLLM2, WORK)
