"""Steps that are recorded and replayed: on a CPU by a recorder that does there what CUDA does, on a GPU by CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import recorder
from builders.checkpoints import Memory
from builders.transformers_networks import network, tokens, weights
from torch import Tensor

from deepcuts.experiment.spec import Training
from deepcuts.fast.attention import use_quick_attention
from deepcuts.fast.cuda_graphs import RECORDERS, Captured, Record, cuda_graphs
from deepcuts.fast.dropout import use_quick_dropout
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import Network
from deepcuts.training.checkpoint import Interrupted
from deepcuts.training.train import Hooks, evaluate, train

CPU = torch.device("cpu")
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SETTINGS = {
    "adam": Training(epochs=6, batch_size=4, lr=0.01, schedule="linear", warmup=0.2),
    "adamw": Training(epochs=6, batch_size=4, lr=0.01, optimizer="adamw", weight_decay=0.1, max_grad_norm=0.05),
    "sgd": Training(epochs=6, batch_size=4, lr=0.1, optimizer="sgd", schedule="cosine"),
    "micro-batches": Training(epochs=6, batch_size=4, lr=0.01, micro_batch=3),
}


class Counted:
    """A recorder that counts what it recorded and how often that was replayed."""

    def __init__(self, record: Record) -> None:
        self.inner, self.recorded, self.replayed = record, 0, 0

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        run, result = self.inner(work)
        self.recorded += 1

        def counting() -> None:
            self.replayed += 1
            run()

        return counting, result


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request: pytest.FixtureRequest) -> Any:
    prepare_process(1, tf32=False)
    return torch.device(request.param)


@pytest.fixture
def counted(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted(recorder.record if device.type == "cpu" else cuda_graphs())
    monkeypatch.setitem(RECORDERS, device.type, lambda: made)
    return made


def refuse(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise RuntimeError("nothing is recorded here")


def quick(device: torch.device, kind: str = "bert", precision: str = "fp32") -> Network:
    made = network(kind)
    use_quick_dropout(made.model)
    use_quick_attention(made.model)  # type: ignore[arg-type]
    return replace(made, model=made.model.to(device), device=device, precision=precision)


def masks(of: Network) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    names = [name for name, parameter in of.model.named_parameters() if "layer" in name and parameter.dim() == 2]
    return {
        name: (torch.rand(of.model.get_parameter(name).shape, generator=draw) < 0.5).to(of.device) for name in names
    }


def trained(device: torch.device, settings: Training, kind: str = "bert", precision: str = "fp32", **more: Any) -> Any:
    """Losses, what an evaluation after each epoch gave, and the weights."""
    made = quick(device, kind, precision)

    def looked_at(epoch: int) -> dict[str, dict[str, float]]:
        return {"validation": {"sum": float(evaluate(made, tokens()).sum())}}

    hooks = replace(more.pop("hooks", Hooks()), after_epoch=looked_at)
    rows = train(made, tokens(), settings, seed=5, stage="dense", masks=masks(made), hooks=hooks, **more)
    return [row["value"] for row in rows], weights(made)


def plainly(device: torch.device, monkeypatch: pytest.MonkeyPatch, *how: Any, **more: Any) -> Any:
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.setitem(RECORDERS, device.type, lambda: refuse)
        return trained(device, *how, **more)


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_replayed_steps_leave_the_bits_of_plain_ones(
    device: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch, kind: str, precision: str, settings: str
) -> None:
    how = (SETTINGS[settings], kind, precision)
    assert_same(trained(device, *how), plainly(device, monkeypatch, *how))
    assert counted.recorded in (1, 2)  # batches of four and of two; with micro-batches in one way each
    assert counted.replayed == 6 * 3 - counted.recorded  # all but the first of a shape


def test_a_stage_that_goes_on_leaves_the_same_bits(
    device: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, memory, stop_after = SETTINGS["adamw"], Memory(), iter([8, 13, 100])
    reached: list[int] = []
    found = None
    while found is None:
        last = next(stop_after)
        hooks = Hooks(on_step=lambda epoch, number: reached.append(number), stop=lambda last=last: reached[-1] == last)
        try:
            found = trained(device, settings, checkpoint=memory, hooks=hooks)
        except Interrupted:
            continue
    assert reached == list(range(1, 19))
    assert counted.replayed > 4
    assert_same(found, plainly(device, monkeypatch, settings))


def test_a_step_that_reads_a_value_is_not_recorded(
    counted: Counted, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Network.batch_loss

    def reading(self: Network, *arguments: Any) -> Tensor:
        found = loss(self, *arguments)
        assert float(found.detach()) > 0
        return found

    monkeypatch.setattr(Network, "batch_loss", reading)
    refused = f"steps are not replayed on this {device.type}, and take longer: .*(captur|synchroniz)"
    with pytest.warns(UserWarning, match=refused):
        found = trained(device, SETTINGS["adam"])
    assert counted.replayed == 0
    assert_same(found, plainly(device, monkeypatch, SETTINGS["adam"]))


def test_a_step_that_python_decides_on_is_found_out(
    counted: Counted, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recording has the number of another call in it."""
    loss, calls = Network.batch_loss, iter(range(1000))
    monkeypatch.setattr(Network, "batch_loss", lambda self, *given: loss(self, *given) * (1 + next(calls)))
    with pytest.warns(UserWarning, match="a replay left other bits than the step itself"):
        trained(device, SETTINGS["adam"])
    assert (counted.recorded, counted.replayed) == (1, 1)


@pytest.mark.parametrize(("records", "expected"), [(True, {4, 6}), (False, {3, 5, 6})])
def test_recorded_batches_have_few_lengths_and_none_beyond_the_longest(
    records: bool, expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model has no positions for more than its longest text."""
    sizes: set[int] = set()

    def looked_at(*arguments: Any) -> Tensor:
        sizes.update(arguments[-1])
        return torch.zeros(())

    monkeypatch.setattr("deepcuts.training.step.take", looked_at)
    monkeypatch.setattr("deepcuts.training.step.LENGTHS", 4)
    if records:
        monkeypatch.setitem(RECORDERS, "cpu", lambda: None)
    train(quick(CPU), tokens(), SETTINGS["adam"], seed=5, stage="dense")
    assert sizes == expected


class Sum:
    """Work that adds the sum of what it is given, and a random number, to a tensor."""

    def __init__(self) -> None:
        self.total, self.calls, self.broken = torch.zeros(2), 0, False

    def __call__(self, given: Tensor, sizes: tuple[int, ...]) -> Tensor:
        self.calls += 1
        if self.broken:
            raise RuntimeError("this is broken")
        self.total += given[: sizes[0]].sum() + torch.rand(2)
        return self.total.sum()

    def captured(self) -> Captured:
        return Captured(self, lambda: [self.total], CPU)


def test_work_is_called_once_more_for_each_shape_and_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    work, plain = Sum(), Sum()
    without = plain.captured()
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    captured = work.captured()
    for seed, (length, size) in enumerate([(3, 1), (3, 1), (3, 2), (3, 1), (4, 2), (3, 2), (3, 2), (4, 2), (3, 1)]):
        given = torch.arange(float(length)) + seed
        assert torch.equal(captured(seed, given, (size,)), without(seed, given, (size,)))
        assert torch.equal(work.total, plain.total)
    assert plain.calls == 9
    assert work.calls == 2 * 3 + 1  # two for each of three shapes, and one to prove the first recording


def test_results_are_not_overwritten_by_later_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    captured = Sum().captured()
    found = [captured(seed, torch.ones(1), (1,)) for seed in range(5)]
    assert sorted({float(each) for each in found}) == [float(each) for each in found]


def test_what_is_not_recorded_later_on_leaves_the_state_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shape is replayed already; the second cannot be recorded."""
    records = iter([recorder.record, refuse])
    work, plain = Sum(), Sum()
    without = plain.captured()
    monkeypatch.setitem(RECORDERS, "cpu", lambda: lambda work: next(records)(work))
    captured = work.captured()
    for seed, length in enumerate([1, 1, 2, 1]):
        captured(seed, torch.ones(length), (1,))
        without(seed, torch.ones(length), (1,))
    with pytest.warns(UserWarning, match="nothing is recorded here"):
        captured(9, torch.ones(2), (1,))
    without(9, torch.ones(2), (1,))
    captured(10, torch.ones(1), (1,))
    without(10, torch.ones(1), (1,))
    assert torch.equal(work.total, plain.total)


def twice(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    run, result = recorder.record(work)
    return lambda: [run() for _ in range(2)] and None, result


def full(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise torch.OutOfMemoryError("too much")


@pytest.mark.parametrize(("record", "why"), [(twice, "a replay left other bits"), (full, "too much")])
def test_a_first_recording_that_fails_leaves_the_state_right(
    record: Record, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, plain = Sum(), Sum()
    without = plain.captured()
    monkeypatch.setitem(RECORDERS, "cpu", lambda: record)
    captured = work.captured()
    captured(0, torch.ones(1), (1,))
    with pytest.warns(UserWarning, match=why):
        captured(1, torch.ones(1), (1,))
    captured(2, torch.ones(1), (1,))
    for seed in range(3):
        without(seed, torch.ones(1), (1,))
    assert torch.equal(work.total, plain.total)


def test_errors_of_the_work_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    work = Sum()
    work.broken = True
    captured = work.captured()
    with pytest.raises(RuntimeError, match="this is broken"):
        captured(0, torch.ones(1), (1,))


def test_shapes_without_number_are_not_all_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    monkeypatch.setattr("deepcuts.fast.cuda_graphs.MOST_RECORDINGS", 3)
    work = Sum()
    captured = work.captured()
    for length in [1, 2, 3, 4, 5] * 3:
        captured(0, torch.ones(length), (1,))
    assert len(captured.replays) == 3
    assert work.calls == 2 * 3 + 1 + 3 * 2


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert Sum().captured().record is None
    assert set(RECORDERS) == {"cuda"}
