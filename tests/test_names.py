from __future__ import annotations

import pytest

from deepcuts.names import block_of, find_id, layer_kind, names_tensor, natural, nearest

IDS = ["0123aaaa", "0123bbbb", "4567cccc"]


def test_an_id_is_found_by_itself_and_by_a_unique_prefix() -> None:
    assert find_id("0123bbbb", IDS) == "0123bbbb"
    assert find_id("4567", [*IDS, "4567cccc"]) == "4567cccc"
    assert find_id("4567", [*IDS, "4567"]) == "4567"


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("0123", "may be any of 0123aaaa, 0123bbbb"),
        ("456", "too short"),
        ("0123aaab", "unknown trial '0123aaab'; did you mean '0123aaaa'"),
    ],
)
def test_other_ids_are_refused(prefix: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_id(prefix, IDS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("magnitude", "LayerMagWeight"),
        ("gradcam", "LayerGradCAM"),
        ("GlobalMagWieght", "GlobalMagWeight"),
        ("layermagweight", "LayerMagWeight"),
        ("batch", "batches"),
        ("data", "dataset"),
    ],
)
def test_the_nearest_name_is_proposed(typed: str, meant: str) -> None:
    known = ["LayerMagWeight", "LayerGradCAM", "GlobalMagWeight", "RowGradCAM", "RowWanda"]
    assert nearest(typed, [*known, "batch_size", "batches", "dataset"]) == f"; did you mean {meant!r}?"


def test_nothing_near_is_not_proposed() -> None:
    assert nearest("magnitude", ["RowWanda"]) == ""
    assert nearest("zzzz", ["sparsity"]) == ""


def test_layers_sort_by_depth() -> None:
    names = ["layer.10.x", "layer.2.x", "layer.2.a"]
    assert sorted(names, key=natural) == ["layer.2.a", "layer.2.x", "layer.10.x"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("bert.encoder.layer.3.attention.self.query", (3, "query")),
        ("encoder.layer.11.attention.output.dense", (11, "attention output")),
        ("roberta.encoder.layer.0.output.dense", (0, "output")),
        ("distilbert.transformer.layer.5.ffn.lin1", (5, "intermediate")),
        ("bert.pooler.dense", (None, "pooler")),
        ("pooler.dense", (None, "pooler")),
        ("blocks.7.mixer", (7, "mixer")),
        ("projection", (None, "projection")),
    ],
)
def test_layers_have_a_depth_and_a_kind(layer: str, expected: tuple[int | None, str]) -> None:
    assert layer_kind(layer) == expected


@pytest.mark.parametrize(
    ("tensor", "block"),
    [
        ("bert.encoder.layer.3.attention.self.query.weight", "bert.encoder.layer.3"),
        ("bert.encoder.layer.10.output.dense.bias", "bert.encoder.layer.10"),
        ("mobilebert.encoder.layer.0.ffn.2.output.dense.weight", "mobilebert.encoder.layer.0"),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.1"),
        ("bert.pooler.dense.weight", "bert.pooler.dense"),
        ("0.weight", "0"),
    ],
)
def test_the_block_of_a_tensor_is_its_numbered_layer_or_else_its_module(tensor: str, block: str) -> None:
    assert block_of(tensor) == block


@pytest.mark.parametrize(
    ("glob", "matches"),
    [
        ("bert.encoder.layer.1.attention.self.query.weight", True),
        ("query", True),
        ("self.query", True),
        ("layer.1", True),
        ("encoder.layer.1.*", True),
        ("*.query.*", True),
        ("layer.[0-3]", True),
        ("quer?", True),
        ("quer", False),
        ("layer.10", False),
        ("attention.query", False),
        ("Query", False),
        ("uery.weight", False),
        ("", False),
    ],
)
def test_a_glob_names_a_tensor_by_its_whole_name_or_by_parts_between_dots(glob: str, matches: bool) -> None:
    assert names_tensor(glob, "bert.encoder.layer.1.attention.self.query.weight") == matches
    assert not names_tensor("layer.1", "bert.encoder.layer.10.output.dense.weight")
