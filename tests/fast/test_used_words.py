"""Training only the words that occur gives the bits of training all words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from builders.checkpoints import Memory
from builders.transformers_networks import WIDTH, WORDS, network, tokens, weights
from torch import nn

from deepcuts.experiment.settings import Training
from deepcuts.fast.process import prepare_process
from deepcuts.fast.used_words import UsedWords, can_narrow
from deepcuts.training.checkpoint import Interrupted
from deepcuts.training.train import Hooks, train

SETTINGS = Training(epochs=2, batch_size=4, lr=0.01)


@pytest.fixture(autouse=True)
def deterministic() -> None:
    prepare_process(1, tf32=False)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_bits_are_those_of_training_all_words(kind: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    fewer, all_words = network(kind), network(kind)
    before = weights(fewer)
    padding = 1 if kind == "roberta" else 0
    rows = train(fewer, tokens(padding), settings, seed=1, stage="dense")
    monkeypatch.setattr("deepcuts.training.train.can_narrow", lambda model, weight_decay: False)
    assert [row["value"] for row in rows] == [
        row["value"] for row in train(all_words, tokens(padding), settings, seed=1, stage="dense")
    ]
    after = weights(fewer)
    assert {name for name in after if not torch.equal(after[name], weights(all_words)[name])} == set()
    [table] = [name for name in after if "word_embeddings" in name]
    changed = (after[table] != before[table]).any(1).nonzero().flatten().tolist()
    assert changed == [7, 23, 58]


def test_a_network_without_it_trains_all_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("deepcuts.training.train.UsedWords")
    net = network()
    with pytest.raises(NameError):
        train(net, tokens(), SETTINGS, seed=1, stage="dense")
    net.shortcuts_off.add("used_words")
    train(net, tokens(), SETTINGS, seed=1, stage="dense")


def test_with_clipping_to_a_norm_the_weights_agree_within_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS.model_copy(update={"max_grad_norm": 0.01})
    fewer, all_words = network(), network()
    train(fewer, tokens(), settings, seed=1, stage="dense")
    monkeypatch.setattr("deepcuts.training.train.can_narrow", lambda model, weight_decay: False)
    train(all_words, tokens(), settings, seed=1, stage="dense")
    for name, weight in weights(all_words).items():
        torch.testing.assert_close(weights(fewer)[name], weight, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_is_resumed_only_with_the_data_that_it_was_made_on() -> None:
    whole, resumed, other = network(), network(), network()
    train(whole, tokens(), SETTINGS, seed=1, stage="dense")
    memory = Memory()
    answers = iter([False, False, False, False, True])
    hooks = Hooks(stop=lambda: next(answers))
    with pytest.raises(Interrupted):
        train(resumed, tokens(), SETTINGS, seed=1, stage="dense", checkpoint=memory, hooks=hooks)
    saved = memory.state
    resumed = network()
    rows = train(resumed, tokens(), SETTINGS, seed=1, stage="dense", checkpoint=memory)
    assert len(rows) == 2
    assert {n for n, weight in weights(whole).items() if not torch.equal(weight, weights(resumed)[n])} == set()
    memory.state = saved
    moved = replace(tokens(), inputs={"input_ids": tokens().inputs["input_ids"] + 1})
    steps: list[int] = []
    hooks = Hooks(on_step=lambda epoch, step: steps.append(step))
    train(other, moved, SETTINGS, seed=1, stage="dense", checkpoint=memory, hooks=hooks)
    assert steps[0] == 1  # from the beginning


def test_hooks_see_the_whole_embedding() -> None:
    net, seen = network(), []
    embedding = net.model.get_input_embeddings()  # type: ignore[operator]
    table = embedding.weight

    def look(*arguments: int) -> dict[str, dict[str, float]]:
        seen.append((embedding.weight is table, table[23].sum().item()))
        return {}

    hooks = Hooks(after_epoch=look, snapshots=[0, 2], snapshot=look)  # type: ignore[arg-type]
    train(net, tokens(), SETTINGS, seed=1, stage="dense", hooks=hooks)
    assert [whole for whole, _ in seen] == [True] * 4
    assert len({row for _, row in seen}) == 4  # with its current values each time
    assert embedding.weight is table


def test_an_interrupted_training_restores_the_whole_embedding() -> None:
    net = network()
    table = net.model.get_input_embeddings().weight  # type: ignore[operator]
    before = table.detach().clone()
    with pytest.raises(Interrupted):
        train(net, tokens(), SETTINGS, seed=1, stage="dense", hooks=Hooks(stop=lambda: True))
    assert net.model.get_input_embeddings().weight is table  # type: ignore[operator]
    assert not torch.equal(table[7], before[7])


def test_only_the_words_that_occur_and_special_tokens_are_trained() -> None:
    net = network("roberta")
    words = UsedWords(net.model, tokens(1))
    assert words.rows.tolist() == [0, 1, 2, 7, 23, 58]
    with words.narrowed() as fewer:
        assert net.model.get_input_embeddings().weight.shape == (6, WIDTH)  # type: ignore[operator]
        assert set(fewer.inputs["input_ids"].tolist()) == {3, 4, 5}


def test_padding_keeps_its_id_and_special_ids_beyond_the_vocabulary_are_ignored() -> None:
    net = network()
    assert UsedWords(net.model, tokens(40)).rows.tolist() == [*range(41), 58]
    net.model.config.cls_token_id = 50_281  # type: ignore[union-attr]
    assert UsedWords(net.model, tokens()).rows.tolist() == list(range(WORDS))


def test_an_embedding_that_decays_or_is_shared_is_trained_whole() -> None:
    model = network().model
    assert can_narrow(model, 0.0)
    assert not can_narrow(model, 0.1)
    model.decoder = nn.Linear(WIDTH, WORDS, bias=False)
    model.decoder.weight = model.get_input_embeddings().weight  # type: ignore[operator]
    assert not can_narrow(model, 0.0)
    assert not can_narrow(nn.Linear(2, 2), 0.0)
