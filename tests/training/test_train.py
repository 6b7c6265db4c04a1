"""Training: steps by hand, masks, clipping, micro-batches, and resuming to the same bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from builders.checkpoints import Memory
from builders.small_network import WEIGHTS, WORDS, Small, small
from torch import Tensor
from transformers import get_scheduler

from deepcuts.data.batches import Tokens, shuffled
from deepcuts.experiment.settings import Training
from deepcuts.model.network import Network
from deepcuts.training.step import rate
from deepcuts.training.train import Hooks, Interrupted, evaluate, train

EXAMPLES = 22
PLAIN = Training(epochs=2, batch_size=8, lr=0.05)  # three steps an epoch, one of them with 6 examples
DECAYED = {"lr": 0.05, "weight_decay": 0.1, "max_grad_norm": 0.05, "schedule": "cosine", "warmup": 0.34}


def examples(outputs: int = 3) -> Tokens:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, EXAMPLES)
    ids = torch.from_numpy(generator.integers(1, WORDS, lengths.sum()))
    labels = generator.integers(0, outputs, EXAMPLES) if outputs > 1 else generator.normal(size=EXAMPLES)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens({"input_ids": ids}, starts, torch.tensor(labels).float(), {"input_ids": 0}, np.zeros(EXAMPLES, bool))


def run(network: Network, settings: Training, seed: int = 0, tokens: Tokens | None = None, **options: Any) -> Any:
    stage = options.pop("stage", "dense")
    return train(network, tokens or examples(), settings, seed=seed, stage=stage, **options)


def weights(model: Small) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def masks() -> dict[str, Tensor]:
    torch.manual_seed(8)
    _, model = small()
    return {name: torch.rand_like(model.get_parameter(name)) < 0.5 for name in WEIGHTS}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.5, 1, 1, *((1 + math.cos(math.pi * i / 6)) / 2 for i in range(1, 6))]),
    ],
)
def test_rates_by_hand(schedule: Any, expected: list[float]) -> None:
    settings = Training(lr=2.0, schedule=schedule, warmup=0.25)
    assert [rate(settings, step, 8) for step in range(8)] == pytest.approx([2 * each for each in expected])
    assert rate(settings.model_copy(update={"warmup": 0.0}), 0, 8) == 2.0


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 8), (0.06, 57), (0.1, 40), (0.25, 9), (0.5, 57)])
def test_rates_are_those_of_transformers_one_step_ahead_in_the_warm_up(
    schedule: Any, warmup: float, steps: int
) -> None:
    settings, warm = Training(lr=2.0, schedule=schedule, warmup=warmup), int(warmup * steps)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    theirs = get_scheduler(f"{schedule}_with_warmup" if schedule == "constant" else schedule, optimiser, warm, steps)
    assert len(theirs.lr_lambdas) == 1
    factor = theirs.lr_lambdas[0]
    for step in range(steps):
        assert rate(settings, step, steps) == pytest.approx(2.0 * factor(step + (step < warm)), rel=1e-12)


def test_a_warm_up_may_take_all_steps() -> None:
    settings = Training(lr=1.0, schedule="linear", warmup=1.0)
    assert [rate(settings, step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_pruned_weights_are_exactly_zero_after_every_step(optimizer: Any) -> None:
    network, model = small(dropout=0.2)
    pruned, before = masks(), weights(model)
    steps = []

    def check(epoch: int, step: int) -> None:
        steps.append(step)
        assert all(not model.get_parameter(name)[~mask].any() for name, mask in pruned.items())

    run(
        network,
        Training(epochs=3, batch_size=8, optimizer=optimizer, **DECAYED),
        masks=pruned,
        hooks=Hooks(on_step=check),
    )
    assert steps == list(range(1, 10))
    for name, mask in pruned.items():
        assert (model.get_parameter(name)[mask] != before[name][mask]).all()


def one_step(network: Network, **settings: Any) -> None:
    run(network, Training(**{"epochs": 1, "batch_size": EXAMPLES, "betas": (0.0, 0.0), **settings}))


def gradients() -> dict[str, Tensor]:
    network, model = small()
    network.batch_loss(examples().batch(np.arange(EXAMPLES)), EXAMPLES).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


def test_one_step_of_each_optimiser_by_hand() -> None:
    for name, gradient in gradients().items():
        for optimizer in ("sgd", "adam", "adamw"):
            network, model = small()
            before = weights(model)[name]
            one_step(network, optimizer=optimizer, lr=0.1, weight_decay=0.5)
            decay = 0.5 * before if gradient.dim() > 1 else 0.0  # biases are not decayed
            expected = {
                "sgd": before - 0.1 * (gradient + decay),
                "adam": before - 0.1 * (gradient + decay) / ((gradient + decay).abs() + 1e-8),
                "adamw": before - 0.1 * decay - 0.1 * gradient / (gradient.abs() + 1e-8),
            }[optimizer]
            torch.testing.assert_close(weights(model)[name], expected, rtol=1e-3, atol=2e-5)


def test_gradients_are_clipped_after_they_are_masked() -> None:
    network, model = small()
    pruned, start = masks(), weights(model)
    zeroed = {name: start[name] * pruned[name] for name in pruned}
    settings = Training(epochs=1, batch_size=EXAMPLES, optimizer="sgd", lr=1.0, betas=(0, 0), max_grad_norm=0.001)
    run(network, settings, masks=pruned)
    moved = [(weights(model)[name] - zeroed.get(name, start[name])).flatten() for name in start]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("loss", ["mean", "mse_sum"])
def test_accumulated_gradients_are_those_of_the_whole_batch(loss: str) -> None:
    results = []
    for micro_batch in (None, 3, 1):
        network, model = small(outputs=1, loss=loss)
        settings = Training(epochs=2, batch_size=8, lr=0.01, micro_batch=micro_batch, optimizer="sgd")
        rows = run(network, settings, tokens=examples(outputs=1))
        results.append((weights(model), [row["value"] for row in rows]))
    for found, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], rel=1e-5)
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, results[0][0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_loss_that_is_not_finite_is_refused_with_its_step(micro_batch: int | None) -> None:
    network, _ = small(outputs=1)
    tokens = examples(outputs=1)
    tokens.labels[5] = float("nan")
    step = next(i for i, batch in enumerate(shuffled(tokens.lengths, 8, 0, "dense", 0)) if 5 in batch)
    with pytest.raises(ValueError, match=rf"the loss of dense step {step} \(epoch 1\) is nan, not finite"):
        run(network, PLAIN.model_copy(update={"micro_batch": micro_batch}), tokens=tokens)


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        (None, r"lower the learning rate \(lr is 0.05\), or set max_grad_norm$"),
        (0.5, r"lower the learning rate \(lr is 0.05\) or max_grad_norm \(it is 0.5\)$"),
    ],
)
def test_the_advice_for_a_loss_that_is_not_finite_proposes_nothing_that_is_set(
    limit: float | None, advice: str
) -> None:
    network, model = small()
    hooks = Hooks(on_step=lambda epoch, step: None if step > 1 else spoil(model))
    with pytest.raises(ValueError, match=r"the loss of dense step 1 .*; " + advice):
        run(network, PLAIN.model_copy(update={"max_grad_norm": limit}), hooks=hooks)


def spoil(model: Any) -> None:
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))


def test_where_the_first_loss_is_not_finite_no_setting_is_blamed() -> None:
    network, model = small()
    spoil(model)
    with pytest.raises(ValueError, match="step 0 .*nothing was trained by then: a weight of the model is not finite"):
        run(network, PLAIN)


def test_the_last_loss_is_told_whenever_losses_are_read() -> None:
    network, _ = small()
    told: list[float] = []
    rows = run(network, PLAIN, hooks=Hooks(on_loss=told.append))
    first = [row["value"] for row in rows if row["metric"] == "loss"][0]
    steps = -(-EXAMPLES // PLAIN.batch_size)
    assert len(told) == steps * PLAIN.epochs
    assert sum(told[:steps]) / steps == first


def train_anew(optimizer: Any, checkpoint: Memory | None = None, **hooks: Any) -> tuple[dict[str, Tensor], Any]:
    """Train as a new process would: the network is built again, and only the checkpoint is left of the last one."""
    network, model = small(dropout=0.3)
    torch.rand(7)
    settings = Training(epochs=3, batch_size=8, optimizer=optimizer, **DECAYED)
    after_epoch = hooks.pop(
        "after_epoch", lambda epoch: {"validation": {"mean": float(evaluate(network, examples()).mean())}}
    )
    rows = run(network, settings, masks=masks(), checkpoint=checkpoint, hooks=Hooks(after_epoch, **hooks))
    return weights(model), [{**row, "seconds": 0} for row in rows]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_interrupted_after_any_step_and_resumed_gives_the_same_bits(optimizer: str) -> None:
    undisturbed = train_anew(optimizer)
    for last in range(1, 10):
        memory, steps = Memory(), iter(range(1, 100))
        with pytest.raises(Interrupted):
            train_anew(optimizer, memory, stop=lambda steps=steps, last=last: next(steps) == last)
        resumed = train_anew(optimizer, memory)
        assert same(resumed[0], undisturbed[0]), last
        assert resumed[1] == undisturbed[1], last


def test_killed_anywhere_and_resumed_gives_the_same_bits() -> None:
    undisturbed = train_anew("adam")
    memory = Memory(minutes=0)

    def die(epoch: int, step: int) -> None:
        raise KeyboardInterrupt

    for last in (1, 2, 4, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            train_anew(
                "adam", memory, on_step=lambda epoch, step, last=last: die(epoch, step) if step == last else None
            )
    assert memory.state is not None
    assert memory.state[1]["step"] == 8
    resumed = train_anew("adam", memory)
    assert same(resumed[0], undisturbed[0])
    assert resumed[1] == undisturbed[1]


def test_a_stage_is_saved_at_the_end_of_every_epoch_but_the_last() -> None:
    memory = Memory()
    train_anew("adam", memory)
    assert memory.saves == 2
    assert memory.state is not None
    assert (memory.state[1]["epoch"], memory.state[1]["step"], memory.state[1]["step_of_epoch"]) == (2, 6, 0)


def test_training_follows_from_seed_and_stage_whatever_was_drawn_before() -> None:
    results = []
    for seed, stage in ((0, "dense"), (0, "dense"), (1, "dense"), (0, "retrained")):
        network, model = small(dropout=0.3)
        torch.manual_seed(len(results))
        run(network, PLAIN, seed, stage=stage)
        results.append(weights(model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])
    assert not same(results[0], results[3])


def test_every_stage_has_a_fresh_optimiser() -> None:
    network, model = small()
    run(network, PLAIN)
    between = weights(model)
    run(network, PLAIN, stage="retrained")
    fresh, other = small(seed=5)
    other.load_state_dict(between)
    run(fresh, PLAIN, stage="retrained")
    assert same(weights(model), weights(other))


def test_the_rows_of_an_epoch_by_hand() -> None:
    network, _ = small()
    rows = run(
        network, Training(epochs=2, batch_size=8, lr=1e-30), hooks=Hooks(lambda epoch: {"validation": {"x": epoch}})
    )
    tokens = examples()
    for epoch in range(2):
        batches = shuffled(tokens.lengths, 8, 0, "dense", epoch)
        losses = [float(network.batch_loss(tokens.batch(b), len(b)).detach()) for b in batches]
        for row, split, metric, value in (
            (rows[2 * epoch], "train", "loss", pytest.approx(sum(losses) / 3)),
            (rows[2 * epoch + 1], "validation", "x", epoch),
        ):
            assert row.pop("seconds") > 0
            at = {"stage": "dense", "epoch": epoch, "step": 3 * epoch + 3}
            assert row == {**at, "split": split, "metric": metric, "value": value}


def test_snapshots_are_taken_after_the_steps_asked_for() -> None:
    network, model = small()
    seen: dict[int, dict[str, Tensor]] = {}
    after: dict[int, dict[str, Tensor]] = {0: weights(model)}
    hooks = Hooks(
        on_step=lambda epoch, step: after.update({step: weights(model)}),
        snapshots={0, 2, 3, 6},
        snapshot=lambda step: seen.update({step: weights(model)}),
    )
    run(network, PLAIN, hooks=hooks)
    assert list(seen) == [0, 2, 3, 6]
    assert all(same(seen[step], after[step]) for step in seen)


def test_zero_epochs_only_apply_the_masks() -> None:
    network, model = small()
    before, pruned = weights(model), masks()
    assert run(network, Training(epochs=0), masks=pruned) == []
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, before[name] * pruned.get(name, torch.ones(())))


def test_outputs_come_in_the_order_of_the_examples_without_dropout() -> None:
    network, model = small(dropout=0.5)
    tokens = examples()
    outputs = evaluate(network, tokens)
    assert not model.training
    for i in range(EXAMPLES):
        alone = network.outputs(tokens.batch(np.array([i]))).detach().numpy()
        np.testing.assert_allclose(outputs[i : i + 1], alone, rtol=1e-5, atol=1e-6)
