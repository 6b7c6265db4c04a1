"""The traps of YAML: each gives the right value or a clear error."""

from __future__ import annotations

import math

import pytest
import yaml
from builders.specs import SMALL, write

from deepcuts.experiment.reading import read_sweep_file
from deepcuts.experiment.yaml_errors import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("2.0e-5", 2e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0", 0),
        ("-3", -3),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("~", None),
        ("null", None),
        ("", None),
        ("nullable", "nullable"),
        ("'3'", "3"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("=", "="),
    ],
)
def test_a_plain_value_is_what_yaml_1_2_says(text, value):
    found = parse_yaml(text)
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)
    assert isinstance(found, str) == isinstance(value, str)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "x: {a: 1, b: {c: 1, c: 2}}",
        "? [a]\n: 1",
        "{a: b}: 1",
        "a:\n\t- b",
        "a: [1",
        "a: b: c",
        "--- a\n--- b",
        "!!python/object/apply:os.system [ls]",
        "!!python/name:os.system ''",
        "a: *missing",
        "a: \x00",
        "{<<: 3}",
    ],
)
def test_what_is_no_single_plain_document_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_anchors_and_merge_keys_are_read():
    text = "base: &a {lr: 1, epochs: 2}\nsame: *a\nmore: &b {<<: *a, lr: 3}\nmost: {<<: *b, lr: 4}"
    found = parse_yaml(text)
    assert found["same"] == {"lr": 1, "epochs": 2}
    assert found["more"] == {"lr": 3, "epochs": 2}
    assert found["most"] == {"lr": 4, "epochs": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tf32: no", None),
        ("tf32: maybe", ":5: tf32: must be true or false, not 'maybe'"),
        ("finetune: {epochs: 1:30}", ":5: finetune.epochs: input should be a valid integer"),
        ("finetune: {epochs: 1.5}", ":5: finetune.epochs: input should be a valid integer, got a number with a frac"),
        ("finetune: {epochs: true}", ":5: finetune.epochs: true is not a number"),
        ("finetune: {lr: .nan}", ":5: finetune.lr: input should be a finite number, not nan"),
        ("finetune: {lr: .inf}", ":5: finetune.lr: input should be a finite number, not inf"),
        ("seeds: [1]\nseeds: [2]", ":6: malformed YAML: key 'seeds' is repeated"),
        ("seeds:\n\t- 0", ":6: malformed YAML: found character '\\t'"),
        ("? [a]\n: 1", ":5: malformed YAML: a key must be text"),
        ("1: 3", "every key must be text, not [1]"),
        ("finetune: {1: 3}", ":5: finetune.1: keys must be text, not 1"),
        ("seeds: [0", "malformed YAML: expected ',' or ']'"),
        ("a: \x07", "malformed YAML: unacceptable character #x0007"),
    ],
)
def test_a_trap_in_a_sweep_file(tmp_path, text, message):
    path = write(tmp_path, SMALL + text)
    if message is None:
        assert read_sweep_file(path).tf32 is False
        return
    with pytest.raises(ValueError, match=r".") as caught:
        read_sweep_file(path)
    assert f"{path}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a sweep is a mapping of keys to values, not nothing"),
        (b"# nothing\n", "not nothing"),
        (b"- a\n- b\n", "not list"),
        (b"just words", "not str"),
        ("name: Zoë".encode("latin-1"), "is not UTF-8 text"),
        (b"\xff\xfen\x00a\x00", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_mapping_of_text_is_refused(tmp_path, content, message):
    path = tmp_path / "small.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_sweep_file(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert read_sweep_file(path).model == "toy"


@pytest.mark.parametrize("missing", [True, False])
def test_a_sweep_file_that_cannot_be_read_is_named(tmp_path, missing):
    path = tmp_path / "x.yaml" if missing else tmp_path
    with pytest.raises(ValueError, match="cannot read the sweep file .*(No such file|Is a directory)"):
        read_sweep_file(path)
