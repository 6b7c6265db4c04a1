"""Networks are loaded whole, their prunable tensors and operations counted, their losses computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.architectures import SETTINGS, architecture, architecture_config
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedModel,
    RobertaConfig,
)

from deepcuts.data.toy import VOCABULARY
from deepcuts.model.load import count_from_config, load_model, load_tokenizer
from deepcuts.model.network import Network, find_prunable, flops, linear_layers, prunable, sample, transposed
from deepcuts.pruning.compression import Counts, compression_to_fraction

SIZE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = {"vocab_size": 30, "max_position_embeddings": 20}
CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**SIZE, **WORDS),
    "roberta": lambda: RobertaConfig(**SIZE, **WORDS, type_vocab_size=1),
    "electra": lambda: ElectraConfig(**SIZE, **WORDS, embedding_size=8),
    "distilbert": lambda: DistilBertConfig(dim=8, n_layers=2, n_heads=2, hidden_dim=16, **WORDS),
}
every = pytest.mark.parametrize("kind", CONFIGS)
BLOCK = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
BLOCK += ["intermediate.dense", "output.dense"]
DISTILLED = ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"]


def build(kind: str, outputs: int = 2, device: str = "cpu") -> PreTrainedModel:
    config = CONFIGS[kind]()
    config.num_labels = outputs
    with torch.device(device):
        return AutoModelForSequenceClassification.from_config(config)


def layers(kind: str) -> list[str]:
    block, above = (DISTILLED, "transformer") if kind == "distilbert" else (BLOCK, "encoder")
    pooler = ["bert.pooler.dense"] if kind == "bert" else []
    return [f"{kind}.{above}.layer.{i}.{name}" for i in range(2) for name in block] + pooler


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., str]:
    """Write the model folder of an architecture, with a head of `outputs`, or with only an encoder (None)."""

    def make(kind: str = "bert", outputs: int | None = None) -> str:
        torch.manual_seed(99)
        model = build(kind, outputs or 2)
        (model if outputs else model.base_model).save_pretrained(tmp_path / kind)
        return str(tmp_path / kind)

    return make


@every
def test_the_linear_layers_of_encoder_and_pooler_are_prunable(kind: str) -> None:
    model = build(kind)
    weights = [f"{layer}.weight" for layer in layers(kind)]
    biases = [f"{layer}.bias" for layer in layers(kind)]
    assert prunable(model, biases=False) == sorted(weights)
    assert prunable(model, biases=True) == sorted(weights + biases)
    for name in prunable(model, biases=True):
        assert not {"embeddings", "LayerNorm", "classifier", "pre_classifier"} & set(name.split("."))


def test_a_linear_layer_below_the_embeddings_is_not_prunable() -> None:
    model = build("bert")
    before = prunable(model, biases=True)
    model.bert.embeddings.projection = torch.nn.Linear(8, 8)  # as in MobileBERT
    assert prunable(model, biases=True) == before


def test_bert_base_has_the_counts_of_the_reference() -> None:
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(BertConfig())
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    assert total == 109_483_778
    for biases, size, ceiling in ((False, 85_524_480, 4.5696), (True, 85_608_192, 4.5856)):
        assert sum(sizes[name] for name in prunable(model, biases)) == size
        assert round(total / (total - size), 4) == ceiling


def test_minilm_has_the_ceilings_of_the_reference() -> None:
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for biases, ceiling in ((False, "1.9008"), (True, "1.9042")):
        size = sum(sizes[name] for name in prunable(model, biases))
        with pytest.raises(ValueError, match=f"the largest compression is {ceiling};"):
            compression_to_fraction(2, sum(sizes.values()), size)


def test_counts_come_from_the_config_alone(folder: Callable[..., str]) -> None:
    name = folder("roberta")
    (Path(name) / "model.safetensors").unlink()
    model = build("roberta", 3)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    counts = count_from_config(name, "main", 3, prune_biases=True)
    assert counts.parameters == sum(sizes.values())
    assert counts.prunable == sum(sizes[key] for key in prunable(model, True))
    assert counts.positions == 18  # RoBERTa's positions begin after the padding's index, 1
    assert count_from_config(folder("bert"), "main", 3, False).positions == 20
    assert count_from_config("toy", "main", 2, False).positions == 32


@pytest.mark.parametrize("name", ["toy", "bert", "roberta"])
def test_the_seed_decides_the_head_whatever_was_drawn_before(name: str, folder: Callable[..., str]) -> None:
    name = name if name == "toy" else folder(name)

    def load(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        model = load_model(name, "main", 2, False, seed)
        head = [parameter.detach().flatten() for key, parameter in model.named_parameters() if "classifier" in key]
        encoder = [p.detach().flatten() for key, p in model.named_parameters() if key.endswith("query.weight")]
        return torch.cat(head), torch.cat(encoder)

    head, encoder = load(0)
    torch.rand(123)
    again, other = load(0), load(1)
    assert torch.equal(head, again[0])
    assert not torch.equal(head, other[0])
    assert torch.equal(encoder, again[1])
    assert torch.equal(encoder, other[1])


def test_all_of_the_stored_encoder_is_loaded_in_fp32(folder: Callable[..., str]) -> None:
    name = folder("bert")
    stored = BertModel.from_pretrained(name).half()
    stored.save_pretrained(name)
    loaded = dict(load_model(name, "main", 2, False, 0).named_parameters())
    for key, parameter in stored.named_parameters():
        assert loaded[f"bert.{key}"].dtype == torch.float32
        assert torch.equal(loaded[f"bert.{key}"], parameter.float())


@pytest.mark.parametrize("change", ["architecture", "width"])
def test_weights_of_another_architecture_are_refused(change: str, folder: Callable[..., str]) -> None:
    name = folder("distilbert")
    config = (
        CONFIGS["bert"]() if change == "architecture" else DistilBertConfig(dim=8, n_heads=2, hidden_dim=20, **WORDS)
    )
    config.save_pretrained(name)
    with pytest.raises(ValueError, match=r"lack \d+ tensors of its encoder, such as '(distil)?bert\."):
        load_model(name, "main", 2, False, 0)


def test_a_missing_pooler_is_drawn_from_the_seed(folder: Callable[..., str]) -> None:
    name = folder("bert")
    BertModel(CONFIGS["bert"](), add_pooling_layer=False).save_pretrained(name)
    first, again = (load_model(name, "main", 2, False, 4).state_dict() for _ in range(2))
    assert torch.equal(first["bert.pooler.dense.weight"], again["bert.pooler.dense.weight"])
    assert first["bert.pooler.dense.weight"].any()


def test_flops_by_hand() -> None:
    model = build("bert")
    per_token = 2 * (4 * 8 * 8 + 2 * 8 * 16)  # two blocks: query, key, value, output; two layers to 16 and back
    assert flops(model, 10) == 2 * (10 * per_token + 8 * 8 + 8 * 2)
    assert flops(model, 10, nonzero=True) == flops(model, 10)
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[0, :3] = 0
        model.bert.pooler.dense.weight[2] = 0
    assert flops(model, 10, nonzero=True) == 2 * (10 * (per_token - 3) + 8 * 8 - 8 + 8 * 2)
    roberta = build("roberta")  # its head has one more layer, at one position
    assert flops(roberta, 10) == 2 * (10 * per_token + 8 * 8 + 8 * 2)


@pytest.mark.parametrize("kind", ["albert", "bert", "funnel", "gpt2", "longformer", "mixtral", "xlnet"])
def test_flops_are_those_that_torch_counts_in_the_linear_layers(kind: str) -> None:
    model = architecture(kind).model
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**sample(model, 9))
    counts = {path.partition(".")[2]: sum(each.values()) for path, each in counter.get_flop_counts().items()}
    assert flops(model, 9) == sum(counts[path] for path in linear_layers(model))


def test_a_layer_that_is_shared_counts_in_the_flops_as_often_as_it_is_called() -> None:
    model = architecture("albert").model  # two blocks of the same weights, 4 to 8 numbers before them
    block = 4 * 8 * 8 + 2 * 8 * 12
    assert flops(model, 10) == 2 * (10 * (2 * block + 4 * 8) + 8 * 8 + 8 * 2)
    with torch.no_grad():
        model.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight[0] = 0  # type: ignore[union-attr]
    assert flops(model, 10, nonzero=True) == flops(model, 10) - 2 * 10 * 2 * 8


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        ("bert", []),
        ("big_bird", ["bert.pooler.weight"]),  # called, but its classifier reads elsewhere
        ("esm", ["esm.contact_head.regression.weight"]),  # never called
    ],
)
def test_a_layer_without_an_effect_on_the_outputs_is_not_prunable(
    kind: str, left_out: list[str], tmp_path: Path
) -> None:
    model = architecture(kind).model.train()
    found = find_prunable(model, biases=False)
    assert found.left_out == left_out
    assert found.names
    assert not set(found.names) & set(left_out)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.config.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    assert count_from_config(str(tmp_path), "main", 2, False).left_out == tuple(left_out)


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_a_plan_counts_what_the_trial_will_prune(kind: str, tmp_path: Path) -> None:
    model = architecture(kind).model
    model.config.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    found, sizes = find_prunable(model, True), {name: p.numel() for name, p in model.named_parameters()}
    counts = count_from_config(str(tmp_path), "main", 2, True)
    prunable = sum(sizes[name] for name in found.names)
    turned, left_out, layers = transposed(model), tuple(found.left_out), counts.feed_forward
    shapes = {name: tuple(model.get_parameter(name).shape) for name in found.names}
    shapes |= {name: shape[::-1] for name, shape in shapes.items() if name in turned}
    whole = sum(sizes.values())
    assert counts == Counts(whole, prunable, counts.positions, found.encoder, left_out, shapes, {}, layers)
    assert isinstance(layers, str) == (kind in ("mixtral", "squeezebert"))
    assert counts.positions == (None if kind == "xlnet" else 32 - 1 if kind in ("esm", "longformer", "roberta") else 32)


def test_the_share_of_the_encoder_that_is_prunable_is_said_where_it_is_small(tmp_path: Path) -> None:
    for kind in ("bert", "mixtral", "squeezebert"):
        architecture_config(kind).save_pretrained(tmp_path / kind)
    bert, mixtral, squeezed = (
        count_from_config(str(tmp_path / kind), "main", 2, False) for kind in ("bert", "mixtral", "squeezebert")
    )
    blocks = 2 * (4 * 8 * 8 + 2 * 8 * 12) + 8 * 8  # of two layers, and the pooler
    assert bert.prunable == blocks
    assert bert.encoder == blocks + 2 * (5 * 8 + 12 + 4 * 8) + 8  # and their biases and LayerNorms
    assert bert.notes() == []
    experts = 2 * 4 * 3 * 8 * 12
    assert mixtral.prunable == 2 * 4 * 8 * 8
    assert mixtral.encoder == mixtral.prunable + experts + 2 * 4 * 8 + 5 * 8  # and a router and norms
    assert mixtral.notes()[0].startswith("warning: only 18% of the encoder")
    assert squeezed.prunable == 8 * 8  # of the pooler: its blocks are convolutions
    assert squeezed.notes()[0].startswith("warning: only ")


def test_a_model_that_no_text_passes_is_refused_with_the_cause(tmp_path: Path) -> None:
    config = architecture_config("bert")
    config.hidden_act = "none of them"
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a text of 8 tokens does not pass .* 'bert', .*KeyError: .*'none of them'"):
        count_from_config(str(tmp_path), "main", 2, False)


def network(outputs: int, head: str = "linear", loss: str = "mean", precision: str = "fp32") -> Network:
    torch.manual_seed(0)
    return Network(build("bert", outputs).eval(), head, loss, precision, torch.device("cpu"))


BATCH = {
    "input_ids": torch.tensor([[1, 2, 3], [4, 5, 0], [6, 7, 8]]),
    "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]]),
    "labels": torch.tensor([1.0, 0.0, 4.5]),
}


def test_losses_by_hand() -> None:
    outputs = network(1).outputs(BATCH)[:, 0]
    squares = (outputs - BATCH["labels"]) ** 2
    torch.testing.assert_close(network(1).batch_loss(BATCH, 3), squares.mean())
    torch.testing.assert_close(network(1).batch_loss(BATCH, 12), squares.sum() / 12)
    torch.testing.assert_close(network(1, loss="mse_sum").batch_loss(BATCH, 12), squares.sum())
    classes = {**BATCH, "labels": torch.tensor([1.0, 0.0, 2.0])}
    logits = network(3).outputs(classes)
    expected = -(logits[0, 1] + logits[1, 0] + logits[2, 2] - logits.logsumexp(1).sum()) / 3
    torch.testing.assert_close(network(3).batch_loss(classes, 3), expected)


def test_a_sigmoid_head_runs_from_0_to_5() -> None:
    plain, bounded = network(1).outputs(BATCH), network(1, head="sigmoid5").outputs(BATCH)
    torch.testing.assert_close(bounded, 5 / (1 + torch.exp(-plain)))


def test_bf16_computes_in_bf16_and_returns_fp32() -> None:
    exact, rough = network(2).outputs(BATCH), network(2, precision="bf16").outputs(BATCH)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=0.02, rtol=0.02)


def test_the_toy_has_its_own_vocabulary_and_no_dropout() -> None:
    model = load_model("toy", "main", 2, False, 0)
    assert load_tokenizer("toy", "main").vocab_size == len(VOCABULARY)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
