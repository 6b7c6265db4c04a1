"""Steps are recorded and replayed: by CUDA on a GPU, and on a CPU by a recorder that imitates it."""

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

from deepcuts.experiment.settings import Training
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


class CountingRecorder:
    """Counts recordings and replays of another recorder."""

    def __init__(self, record: Record) -> None:
        self.inner, self.recorded, self.replayed = record, 0, 0

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        run, result = self.inner(compute)
        self.recorded += 1

        def run_and_count() -> None:
            self.replayed += 1
            run()

        return run_and_count, result


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request: pytest.FixtureRequest) -> Any:
    prepare_process(1, tf32=False)
    return torch.device(request.param)


@pytest.fixture
def calls(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> CountingRecorder:
    counting = CountingRecorder(recorder.record if device.type == "cpu" else cuda_graphs())
    monkeypatch.setitem(RECORDERS, device.type, lambda: counting)
    return counting


def refuse(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise RuntimeError("nothing is recorded here")


def fast_network(device: torch.device, kind: str = "bert", precision: str = "fp32") -> Network:
    net = network(kind)
    use_quick_dropout(net.model)
    use_quick_attention(net.model)  # type: ignore[arg-type]
    return replace(net, model=net.model.to(device), device=device, precision=precision, capture=True)


def masks(of: Network) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    names = [name for name, parameter in of.model.named_parameters() if "layer" in name and parameter.dim() == 2]
    return {
        name: (torch.rand(of.model.get_parameter(name).shape, generator=draw) < 0.5).to(of.device) for name in names
    }


def trained(
    device: torch.device, settings: Training, kind: str = "bert", precision: str = "fp32", **options: Any
) -> Any:
    """Train; return the losses and the sum of the outputs after each epoch, and the weights."""
    net = fast_network(device, kind, precision)

    def after_epoch(epoch: int) -> dict[str, dict[str, float]]:
        return {"validation": {"sum": float(evaluate(net, tokens()).sum())}}

    hooks = replace(options.pop("hooks", Hooks()), after_epoch=after_epoch)
    rows = train(net, tokens(), settings, seed=5, stage="dense", masks=masks(net), hooks=hooks, **options)
    return [row["value"] for row in rows], weights(net)


def trained_directly(device: torch.device, monkeypatch: pytest.MonkeyPatch, *settings: Any, **options: Any) -> Any:
    """The same with a recorder that refuses: every step runs directly."""
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.setitem(RECORDERS, device.type, lambda: refuse)
        return trained(device, *settings, **options)


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_replayed_steps_give_the_bits_of_direct_ones(
    device: Any, calls: CountingRecorder, monkeypatch: pytest.MonkeyPatch, kind: str, precision: str, settings: str
) -> None:
    arguments = (SETTINGS[settings], kind, precision)
    assert_same(trained(device, *arguments), trained_directly(device, monkeypatch, *arguments))
    assert calls.recorded in (1, 2)  # batches of four and of two examples, or one shape of micro-batches
    assert calls.replayed == 6 * 3 - calls.recorded  # all but the first step of each shape


def test_an_interrupted_stage_that_is_resumed_gives_the_same_bits(
    device: Any, calls: CountingRecorder, monkeypatch: pytest.MonkeyPatch
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
    assert calls.replayed > 4
    assert_same(found, trained_directly(device, monkeypatch, settings))


def test_a_step_that_reads_a_value_is_not_recorded(
    calls: CountingRecorder, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Network.batch_loss

    def batch_loss(self: Network, *arguments: Any) -> Tensor:
        found = loss(self, *arguments)
        assert float(found.detach()) > 0
        return found

    monkeypatch.setattr(Network, "batch_loss", batch_loss)
    refused = f"steps are not replayed on this {device.type}, and take longer: .*(captur|synchroniz)"
    with pytest.warns(UserWarning, match=refused):
        found = trained(device, SETTINGS["adam"])
    assert calls.replayed == 0
    assert_same(found, trained_directly(device, monkeypatch, SETTINGS["adam"]))


def test_a_step_that_depends_on_python_state_is_noticed(
    calls: CountingRecorder, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is multiplied by the number of the call; a recording keeps that of the call that it recorded."""
    loss, numbers = Network.batch_loss, iter(range(1, 1000))
    monkeypatch.setattr(Network, "batch_loss", lambda self, *arguments: loss(self, *arguments) * next(numbers))
    net = fast_network(device)
    with pytest.warns(UserWarning, match="a replay left other bits than the step itself"):
        train(net, tokens(), SETTINGS["adam"], seed=5, stage="dense")
    assert (calls.recorded, calls.replayed) == (1, 1)
    assert net.shortcuts_off == {"cuda_graphs"}


def test_nothing_is_recorded_unless_it_is_asked_for_and_the_bits_are_the_same(
    device: Any, calls: CountingRecorder
) -> None:
    found = []
    for capture in (True, False):
        net = replace(fast_network(device), capture=capture)
        rows = train(net, tokens(), SETTINGS["adam"], seed=5, stage="dense")
        found.append(([row["value"] for row in rows], weights(net)))
        assert calls.recorded == 2  # by the first run
        assert not net.shortcuts_off
    assert_same(*found)


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize(("records", "expected"), [(True, {4, 6}), (False, {3, 5, 6})])
def test_recorded_batches_are_padded_to_few_lengths_but_never_beyond_the_longest_text(
    capture: bool, records: bool, expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model may have no positions beyond its longest text. Lengths decide bits, so capturing does not change them."""
    sizes: set[int] = set()

    def note_sizes(*arguments: Any) -> Tensor:
        sizes.update(arguments[-1])
        return torch.zeros(())

    monkeypatch.setattr("deepcuts.training.step.take_step", note_sizes)
    monkeypatch.setattr("deepcuts.training.step.LENGTH_MULTIPLE", 4)
    if records:
        monkeypatch.setitem(RECORDERS, "cpu", lambda: None)
    net = replace(fast_network(CPU), capture=capture)
    train(net, tokens(), SETTINGS["adam"], seed=5, stage="dense")
    assert sizes == expected


class Sum:
    """A computation that adds the sum of its input, and random numbers, to a tensor."""

    def __init__(self) -> None:
        self.total, self.calls, self.broken = torch.zeros(2), 0, False

    def __call__(self, inputs: Tensor, sizes: tuple[int, ...]) -> Tensor:
        self.calls += 1
        if self.broken:
            raise RuntimeError("this is broken")
        self.total += inputs[: sizes[0]].sum() + torch.rand(2)
        return self.total.sum()

    def captured(self) -> Captured:
        return Captured(self, lambda: [self.total], CPU)


def test_a_shape_is_computed_directly_once_then_recorded_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    computation, plain = Sum(), Sum()
    direct = plain.captured()
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    captured = computation.captured()
    for seed, (length, size) in enumerate([(3, 1), (3, 1), (3, 2), (3, 1), (4, 2), (3, 2), (3, 2), (4, 2), (3, 1)]):
        inputs = torch.arange(float(length)) + seed
        assert torch.equal(captured(seed, inputs, (size,)), direct(seed, inputs, (size,)))
        assert torch.equal(computation.total, plain.total)
    assert plain.calls == 9
    assert computation.calls == 2 * 3 + 1  # two calls for each of three shapes, and one to verify the first recording


def test_results_are_not_overwritten_by_later_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    captured = Sum().captured()
    found = [captured(seed, torch.ones(1), (1,)) for seed in range(5)]
    assert sorted({float(each) for each in found}) == [float(each) for each in found]


def test_a_later_recording_that_fails_leaves_the_state_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shape is already replayed when the second cannot be recorded."""
    records = iter([recorder.record, refuse])
    computation, plain = Sum(), Sum()
    direct = plain.captured()
    monkeypatch.setitem(RECORDERS, "cpu", lambda: lambda compute: next(records)(compute))
    captured = computation.captured()
    for seed, length in enumerate([1, 1, 2, 1]):
        captured(seed, torch.ones(length), (1,))
        direct(seed, torch.ones(length), (1,))
    with pytest.warns(UserWarning, match="nothing is recorded here"):
        captured(9, torch.ones(2), (1,))
    direct(9, torch.ones(2), (1,))
    captured(10, torch.ones(1), (1,))
    direct(10, torch.ones(1), (1,))
    assert torch.equal(computation.total, plain.total)


def replay_twice(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    run, result = recorder.record(compute)
    return lambda: [run() for _ in range(2)] and None, result


def out_of_memory(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise torch.OutOfMemoryError("too much")


@pytest.mark.parametrize(
    ("record", "warning"), [(replay_twice, "a replay left other bits"), (out_of_memory, "too much")]
)
def test_a_first_recording_that_fails_leaves_the_state_right(
    record: Record, warning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computation, plain = Sum(), Sum()
    direct = plain.captured()
    monkeypatch.setitem(RECORDERS, "cpu", lambda: record)
    captured = computation.captured()
    captured(0, torch.ones(1), (1,))
    with pytest.warns(UserWarning, match=warning):
        captured(1, torch.ones(1), (1,))
    captured(2, torch.ones(1), (1,))
    for seed in range(3):
        direct(seed, torch.ones(1), (1,))
    assert torch.equal(computation.total, plain.total)


def test_errors_of_the_computation_are_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    computation = Sum()
    computation.broken = True
    captured = computation.captured()
    with pytest.raises(RuntimeError, match="this is broken"):
        captured(0, torch.ones(1), (1,))


def test_only_so_many_shapes_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", lambda: recorder.record)
    monkeypatch.setattr("deepcuts.fast.cuda_graphs.MAX_RECORDINGS", 3)
    computation = Sum()
    captured = computation.captured()
    for length in [1, 2, 3, 4, 5] * 3:
        captured(0, torch.ones(length), (1,))
    assert len(captured.replays) == 3
    assert computation.calls == 2 * 3 + 1 + 3 * 2


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert Sum().captured().record is None
    assert set(RECORDERS) == {"cuda"}
