"""What would stop every trial of a model is found on two texts, and said with its cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from builders.bert_folder import SHAPE, bert_folder, change_config, change_weights, word_tokenizer
from builders.toy_trials import dense, trial

from deepcuts.data.splits import locate
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.spec import ModelSource
from deepcuts.experiment.tasks import Task
from deepcuts.scoring.score import score
from deepcuts.trial.tryout import try_out


@pytest.fixture(autouse=True)
def own_state(torch_state: None) -> None:
    """Torch as a fresh process has it, whatever ran before."""
    torch.use_deterministic_algorithms(False)


STRATEGIES = ("Dense", "LayerMagIncrease", "LayerGradCAM", "GlobalSNIP", "RowWanda", "LayerSmoothGrad")


def task(folder: Path, text: list[str]) -> Task:
    for split, count in (("train", 4), ("validation", 2)):
        rows = [{"a": f"w{i} w1", "b": "w2", "label": i % 2} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    return locate("mine", OwnData(**paths, text=text, classes=2))


def try_model(folder: Path, text: tuple[str, ...] = ("a",), max_tokens: int = 8, **fields: Any) -> list[str]:
    model = ModelSource(name=str(folder), digest="0")
    of = dense(task(folder, list(text)), max_tokens=max_tokens, **fields).model_copy(update={"model": model})
    return try_out([trial(strategy, of=of) for strategy in STRATEGIES])


@pytest.mark.parametrize(("text", "precision"), [(("a",), "fp32"), (("a", "b"), "bf16")])
def test_a_good_model_passes_and_torch_is_left_as_it_was(tmp_path, monkeypatch, text, precision):
    passes = []

    def watched(network: Any, names: Any, criteria: Any, tokens: Any, *more: Any) -> Any:
        assert list(tokens.lengths) == [4 if len(text) == 1 else 6, 8]
        passes.append(list(criteria))
        return score(network, names, criteria, tokens, *more)

    monkeypatch.setattr("deepcuts.trial.tryout.score", watched)
    bert_folder(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert try_model(tmp_path, text, precision=precision) == []
    assert torch.rand(1) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert sorted(map(sorted, passes)) == [["GradCAM", "SNIP"], ["MagIncrease"], ["SmoothGrad"], ["Wanda"]]


def test_a_model_for_a_gpu_is_tried_out_on_the_cpu(tmp_path):
    assert try_model(bert_folder(tmp_path), device="cuda", compile=True) == []


def save(folder: Path, config: transformers.PretrainedConfig) -> Path:
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def test_facts_of_a_model_are_told_in_a_sentence_each(tmp_path):
    widths = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    special = {"max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    fnet = transformers.FNetConfig(**widths, max_position_embeddings=32, pad_token_id=0)
    (fact,) = try_model(save(tmp_path / "fnet", fnet))
    assert "the outputs of fnet for a text depend on how its batch is padded" in fact
    heads = {"num_attention_heads": 2, "initializer_range": 0.5}
    roberta = transformers.RobertaPreLayerNormConfig(**widths, **special, **heads)
    assert try_model(save(tmp_path / "roberta", roberta)) == [
        "shortcuts that would give other numbers on this model are off: gelu"
    ]


@pytest.mark.parametrize(("text", "least"), [(("a",), 3), (("a", "b"), 5)])
def test_a_token_of_each_text_must_have_room(tmp_path, text, least):
    bert_folder(tmp_path)
    (fact,) = try_model(tmp_path, text, max_tokens=least)
    assert fact.startswith("toy: 4 of 4 training texts that were looked at (100.0%) are longer than max_tokens")
    for fewer in range(1, least):
        with pytest.raises(ValueError, match=f"max_tokens: {fewer} leaves no room .* give at least {least}"):
            try_model(tmp_path, text, max_tokens=fewer)


def test_a_tokenizer_without_a_pad_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no pad token.*set pad_token in its tokenizer_config.json"):
        try_model(bert_folder(tmp_path, pad=None))


def test_a_tokenizer_with_more_words_than_rows_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"the id of 'w36' is 40, and there are 40 rows.*resize_token_embeddings\(41\)"
    ):
        try_model(bert_folder(tmp_path, words=37))


def test_weights_that_hold_nan_are_named(tmp_path):
    bert_folder(tmp_path)
    name = "bert.encoder.layer.0.output.dense.bias"
    change_weights(tmp_path, **{name: torch.tensor([1.0, float("nan")] * 4)})
    with pytest.raises(ValueError, match=f"damaged: 4 of the 8 values of '{name}' are not finite"):
        try_model(tmp_path)


def test_finite_weights_whose_outputs_are_not_are_refused(tmp_path):
    bert_folder(tmp_path)
    change_weights(tmp_path, bert__pooler__dense__weight=torch.full((8, 8), 3e38))
    change_weights(tmp_path, bert__encoder__layer__0__output__LayerNorm__weight=torch.full((8,), 3e38))
    with pytest.raises(ValueError, match="evaluating two texts, of 4 and 8 tokens: the outputs are not finite"):
        try_model(tmp_path)


def test_an_encoder_alone_of_an_encoder_and_decoder_is_refused(tmp_path):
    config = transformers.T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"loading its weights: .*lack \d+ tensors .* 'transformer.decoder"):
        try_model(tmp_path)


def test_a_config_that_lacks_the_pad_token_that_its_model_needs_is_refused(tmp_path):
    shape = {"ffn_dim": 8, "word_embed_proj_dim": 8, "pad_token_id": None}
    transformers.OPTForSequenceClassification(transformers.OPTConfig(**SHAPE | shape)).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of 4 and 8 tokens: Cannot handle .* Set pad_token_id in its config.json"):
        try_model(tmp_path)


def test_texts_are_as_long_as_max_tokens_and_as_many_as_the_task_has(tmp_path):
    bert_folder(tmp_path, type_vocab_size=1)
    assert try_model(tmp_path, max_tokens=32) == []
    with pytest.raises(ValueError, match="evaluating two texts, of 4 and 33 tokens: "):
        try_model(tmp_path, max_tokens=33)
    with pytest.raises(ValueError, match="evaluating two texts, of 6 and 8 tokens: "):
        try_model(tmp_path, ("a", "b"))


def test_a_padding_id_of_the_config_that_is_not_the_tokenizer_s_is_a_fact(tmp_path):
    bert_folder(tmp_path)
    change_config(tmp_path, pad_token_id=1)
    assert try_model(tmp_path) == [
        "the tokenizer pads with id 0 and the model's config says that padding is id 1: where the model looks for"
        " padding by its id, it finds the wrong tokens"
    ]


def test_what_fails_in_a_pass_or_in_training_is_said_with_its_name(tmp_path, monkeypatch):
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no such layer\nand more")

    bert_folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("deepcuts.trial.tryout.train", fail)
        with pytest.raises(ValueError, match="a step of training on two texts.*: RuntimeError: no such layer$"):
            try_model(tmp_path)
    monkeypatch.setattr("deepcuts.trial.tryout.score", fail)
    with pytest.raises(ValueError, match="cannot run on 'toy': scoring by MagIncrease: RuntimeError: no such layer$"):
        try_model(tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_missing_sentencepiece_is_named_whatever_the_library_asks_for(tmp_path, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise ValueError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.")

    monkeypatch.setattr("deepcuts.trial.tryout.load_tokenizer", fail)
    monkeypatch.setattr("deepcuts.trial.tryout.find_spec", lambda package: None)
    with pytest.raises(ValueError, match="loading its tokenizer: it needs .* run `pip install sentencepiece`"):
        try_model(bert_folder(tmp_path))


def test_blank_texts_are_refused_where_the_tokenizer_adds_no_special_tokens(tmp_path):
    folder = bert_folder(tmp_path)
    of = dense(task(folder, ["a"]), max_tokens=8).model_copy(
        update={"model": ModelSource(name=str(folder), digest="0")}
    )
    rows = [{"a": text, "label": row % 2} for row, text in enumerate(("w1", "w2", " ", ""))]
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert try_out([trial("LayerSNIP", of=of)]) == []
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.Sequence([])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"2 of the 4 texts in validation, the first in row 2 .* have no tokens"):
        try_out([trial("LayerSNIP", of=of)])


def test_the_texts_that_a_model_is_tried_on_are_not_blank(tmp_path):
    folder = bert_folder(tmp_path)
    of = dense(task(folder, ["a"]), max_tokens=8).model_copy(
        update={"model": ModelSource(name=str(folder), digest="0")}
    )
    rows = [{"a": text, "label": row % 2} for row, text in enumerate(("", "w1 w2"))]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "deepcuts.trial.tryout.evaluate", lambda network, tokens: seen.append(tokens.lengths) or np.ones(2)
        )
        try_out([trial("LayerMagWeight", of=of)])
    assert [list(lengths) for lengths in seen] == [[4, 8]]
