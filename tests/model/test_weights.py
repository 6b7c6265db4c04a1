"""What the headers of weight files tell, and which errors of reading a model would come again."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from builders.hub_cache import COMMIT, fill_cache
from builders.model_folder import model_folder
from huggingface_hub import errors

from deepcuts.experiment.spec import ModelSource
from deepcuts.model.weights import check_weights, is_lasting, model_commit

HUB = ModelSource(name="some/model")
INDEX = "model.safetensors.index.json"


def safetensors(held: int | None = None, **dtypes: str) -> bytes:
    """A file of tensors of one number each, by name, and `held` bytes of them instead of all."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "F8_E4M3": 1}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype in dtypes.items():
        header[name.replace("__", ".")] = {"dtype": dtype, "shape": [1], "data_offsets": [end, end + sizes[dtype]]}
        end += sizes[dtype]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end if held is None else held)


GOOD = safetensors(encoder__weight="F32", encoder__bias="F16", position_ids="I64", attention__mask="U8")


def folder(path: Path, **files: bytes) -> ModelSource:
    return ModelSource(name=str(model_folder(path / "m", **{"model.safetensors": GOOD} | files)), digest="0")


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_whole_weights_of_floats_pass(tmp_path, dtype):
    assert check_weights(folder(tmp_path))
    assert check_weights(folder(tmp_path, **{"model.safetensors": safetensors(encoder__weight=dtype)}))
    assert check_weights(ModelSource(name="toy", digest="0"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-3], "is damaged: its tensors have 15 bytes and it holds 12"),
        (GOOD + b"00", "is damaged: its tensors have 15 bytes and it holds 17"),
        (GOOD[:40], "holds no weights"),
        (GOOD[:8] + b"?" + GOOD[9:], "holds no weights"),
        (struct.pack("<Q", 2) + b"{}", "holds no weights"),
        (struct.pack("<Q", 2) + b"[]", "holds no weights"),
        (struct.pack("<Q", 10) + b'{"a": [1]}', "holds no weights"),
        (b"", "holds no weights"),
        (safetensors(encoder__weight="I8"), r"holds quantised weights \('encoder.weight' is I8\)"),
        (safetensors(encoder__weight="F8_E4M3"), "is F8_E4M3.*model.dequantize"),
        (safetensors(encoder__qweight="I32"), "'encoder.qweight' is I32"),
    ],
)
def test_a_file_that_is_damaged_or_quantised_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        check_weights(folder(tmp_path, **{"model.safetensors": content}))


def test_a_config_that_says_quantised_is_refused(tmp_path):
    config = b'{"model_type": "bert", "quantization_config": {"quant_method": "gptq"}}'
    with pytest.raises(ValueError, match=r"config.json says that the weights are quantised \(gptq\)"):
        check_weights(folder(tmp_path, **{"config.json": config}))


def test_every_shard_of_an_index_is_checked(tmp_path):
    index = json.dumps({"weight_map": {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}})
    files = {INDEX: index.encode(), "model-1.safetensors": GOOD}
    model = folder(tmp_path, **files)
    (tmp_path / "m/model.safetensors").unlink()
    with pytest.raises(ValueError, match="model-2.safetensors"):
        check_weights(model)
    (tmp_path / "m/model-2.safetensors").write_bytes(GOOD[:-3])
    with pytest.raises(ValueError, match="model-2.safetensors is damaged"):
        check_weights(model)
    (tmp_path / "m/model-2.safetensors").write_bytes(GOOD)
    assert check_weights(model)
    (tmp_path / "m" / INDEX).unlink()
    with pytest.raises(ValueError, match="model.safetensors"):
        check_weights(model)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_model_of_the_hub_is_checked_once_all_its_files_are_here(tmp_path, monkeypatch, sharded):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert not check_weights(HUB)
    assert model_commit(HUB.name, HUB.revision) is None
    files = {"config.json": b"{}", "model.safetensors": GOOD}
    if sharded:
        weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
        files = {
            "config.json": b"{}",
            "model-1.safetensors": GOOD,
            INDEX: json.dumps({"weight_map": weight_map}).encode(),
        }
    fill_cache(tmp_path, "some/model", files, kind="models")
    assert check_weights(HUB) is not sharded
    commit = model_commit(HUB.name, HUB.revision)
    assert commit == COMMIT
    if not sharded:
        fill_cache(tmp_path, "other/model", files | {"model.safetensors": GOOD[:-3]}, kind="models")
        with pytest.raises(ValueError, match="is damaged"):
            check_weights(ModelSource(name="other/model"))


def caused(cause: Exception) -> OSError:
    """An error as transformers raises it, with one of the Hub as its cause."""
    error = OSError("We could not load it")
    error.__cause__ = cause
    return error


def of_hub(kind: type[Exception]) -> Exception:
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (FileNotFoundError("No such file: model-2.safetensors"), True),
        (FileNotFoundError(errno.ENOENT, "gone"), True),
        (PermissionError(errno.EACCES, "forbidden"), True),
        (OSError("Error no file named model.safetensors"), True),
        (caused(of_hub(errors.RepositoryNotFoundError)), True),
        (caused(of_hub(errors.GatedRepoError)), True),
        (caused(of_hub(errors.RevisionNotFoundError)), True),
        (of_hub(errors.RemoteEntryNotFoundError), True),
        (OSError(errno.EIO, "the disk is away"), False),
        (OSError(errno.ESTALE, "the mount is away"), False),
        (ConnectionError("away"), False),
        (TimeoutError("away"), False),
        (caused(of_hub(errors.LocalEntryNotFoundError)), False),
        (caused(of_hub(errors.HfHubHTTPError)), False),
        (caused(ConnectionError("away")), False),
    ],
)
def test_an_error_lasts_unless_a_hub_or_a_disk_is_away(error, lasting):
    assert is_lasting(error) is lasting
