"""Tries architectures with tiny random weights: what is prunable, which criteria and shortcuts apply, and the export.

    python -m benchmarks.architectures [KIND ...] > docs/models.md

Every architecture runs a whole trial (fine-tuning, scoring, pruning, retraining), is exported, and loaded again by
transformers alone. The criteria are those that score every prunable tensor of it. Everything is written to a temporary
folder.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

import deepcuts as dc
from deepcuts.experiment.settings import ScoringPass
from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.load import count_from_config, silence_transformers
from deepcuts.model.network import find_prunable, weights_of
from deepcuts.pruning.criteria import CRITERIA
from deepcuts.scoring.activations import how_counted
from deepcuts.scoring.score import score
from deepcuts.trial.loading import Material, load_material, load_network

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"] + [f"w{i}" for i in range(59)]
SHAPE: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 24, "max_position_embeddings": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
RELATIVE: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
SHARED = {"share_att_key": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm"}
SIDES = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
# What a kind calls by another name, or needs besides; None where it does not take a size.
KINDS: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 8},
    "bart": SIDES | {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
    "bert": {},
    "big_bird": {},
    "camembert": {},
    "canine": {},
    "convbert": {"embedding_size": 16, "head_ratio": 1},
    "data2vec-text": {},
    "deberta": RELATIVE | {"max_relative_positions": 16},
    "deberta-v2": RELATIVE | SHARED,
    "distilbert": {"hidden_dim": 24},
    "electra": {"embedding_size": 16},
    "ernie": {},
    "esm": {"mask_token_id": 4},
    "flaubert": {},
    "fnet": {},
    "funnel": {"block_sizes": [1, 1], "n_head": 2, "d_head": 8, "d_inner": 24, "num_hidden_layers": None},
    "gpt2": {"n_inner": 24},
    "ibert": {},
    "layoutlm": {"max_2d_position_embeddings": 8},
    "llama": {"num_key_value_heads": 2},
    "longformer": {"attention_window": 8},
    "megatron-bert": {},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "modernbert": {},
    "mpnet": {},
    "nystromformer": {},
    "openai-gpt": {},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roberta": {},
    "roberta-prelayernorm": {},
    "roformer": {},
    "squeezebert": {"embedding_size": 16} | {f"{each}_groups": 2 for each in ("q", "k", "v", "intermediate", "output")},
    "t5": {"d_kv": 8, "d_ff": 24, "num_layers": 2, "decoder_start_token_id": 0, "max_position_embeddings": None},
    "xlm": {},
    "xlm-roberta": {},
    "xlnet": {"d_inner": 24, "d_head": 8, "max_position_embeddings": None},
    "yoso": {},
}
# Names of people, where these differ from the kind that transformers knows.
NAMES = {"deberta-v2": "deberta-v2, deberta-v3"}


def write_model(kind: str, folder: Path) -> None:
    """Write a tiny model and a tokenizer of 64 words."""
    settings = {key: value for key, value in (SHAPE | SPECIAL | KINDS[kind]).items() if value is not None}
    config = transformers.AutoConfig.for_model(kind, **settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).base_model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # so that every layer matters to the outputs
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)  # type: ignore[assignment]
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, **names, model_input_names=["input_ids", "attention_mask"]
    )
    fast.save_pretrained(folder)


def write_data(folder: Path) -> dict[str, Any]:
    """Write texts of 3 to 9 words, which are of class 1 where they begin with an even one."""
    generator = np.random.default_rng(0)
    for split, size in (("train", 48), ("validation", 16)):
        texts = [generator.integers(0, 59, generator.integers(3, 10)) for _ in range(size)]
        rows = [f"{' '.join(f'w{word}' for word in text)},{(text[0] + 1) % 2}" for text in texts]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    files = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    return {"own": files | {"text": "text", "label": "label", "classes": 2}}


def sweep_of(model: Path, data: Mapping[str, Any]) -> dc.Sweep:
    """Return a sweep of one pruned trial."""
    return dc.read_sweep(
        {
            "name": "architectures",
            "model": str(model),
            "datasets": dict(data),
            "strategies": ["RowWanda"],
            "sparsities": [0.5],
            "max_tokens": 32,
            "finetune": {"epochs": 1, "batch_size": 8},
            "retrain": {"epochs": 1},
            "scoring": {"batches": 4, "batch_size": 8},
            "keep_models": True,
            "resources": {"gpus": 0, "cpus": 1},
        }
    )


def criteria_that_run(trial: TrialSpec) -> str:
    """Score by each criterion; return how many work, and which do not."""
    network, material = load_network(trial.dense), load_material(trial.dense)
    names, settings = find_prunable(network.model, biases=False).names, ScoringPass(smoothing_passes=2)
    order, failed = [np.arange(8), np.arange(8, 16)], []
    for criterion in CRITERIA:
        try:
            score(network, names, [criterion], material.train, order, settings, 0, weights_of(network))
        except Exception as error:
            failed.append(f"{criterion}: {type(error).__name__}")
    return "all" if not failed else "; ".join(failed)


@torch.no_grad()
def round_trip(store: dc.Store, trial_id: str, folder: Path, material: Material) -> str:
    """Export a trial; return how far the outputs of transformers alone are from those that the trial recorded."""
    dc.export(store, trial_id, folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    table = store.read("predictions").table.to_pylist()
    logits = {row["example"]: row["logits"] for row in table if row["stage"] == "retrained"}
    worst = 0.0
    for example, recorded in logits.items():
        batch = material.evaluated["validation"].batch(np.array([example]))
        outputs: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[0]
        worst = max(worst, float((outputs - torch.tensor(recorded)).abs().max()))
    return "same" if worst < 1e-4 else f"differs by {worst:.2g}"


_COLUMNS = ("prunable share", "rows of unknown tokens", "criteria", "shortcuts off", "padding matters", "export")


def try_kind(kind: str, folder: Path, data: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of the table for one architecture."""
    row = dict.fromkeys(_COLUMNS, "")
    row = {"architecture": NAMES.get(kind, kind)} | row
    try:
        write_model(kind, folder / "model")
        counts = count_from_config(str(folder / "model"), "main", 2, False)
        row["prunable share"] = f"{counts.share:.0%}"
        trial = sweep_of(folder / "model", data).trials()[-1]
        row["criteria"] = criteria_that_run(trial)
        network, material = load_network(trial.dense), load_material(trial.dense)
        said = how_counted(network, material.train, find_prunable(network.model, False).names, CRITERIA["Wanda"])
        row["rows of unknown tokens"] = said.split(" in ")[1] if said else "none"
        store = dc.Store(str(folder / "store"))
        made = dc.run_trial(trial, store, threads=1, keep_model=True)
        if made["status"] != "completed":
            raise RuntimeError(made["error"])
        row["shortcuts off"] = made["shortcuts_off"] or "none"
        row["padding matters"] = "yes" if made["padding_matters"] else "no"
        row["export"] = round_trip(store, made["trial_id"], folder / "export", material)
    except Exception as error:
        reason = str(error).splitlines()[0].replace(f" {str(folder / 'model')!r}", "")
        row["export"] = f"{type(error).__name__}: {reason}"
    return row


INTRODUCTION = """# Architectures

`python -m benchmarks.architectures > docs/models.md` wrote this page, with transformers {version}. It runs one whole
trial of each architecture as a tiny network with random weights; in a real network, the same layers have another
share.

- **Prunable share**: how many of the encoder's parameters, embeddings aside, are prunable weights. The others are
  biases, norms, and weights outside linear layers (`nn.Linear`, or `Conv1D` in GPT-2): convolutions, the experts of
  `mixtral`, XLNet's attention. `plan` warns below 50 %. A layer that does not affect the outputs, such as the pooler
  of `big_bird`, is not prunable.
- **Rows of unknown tokens**: a layer's mean inputs and outputs, and Wanda's squares, are taken over the rows that
  belong to real tokens. If a layer is called with other rows (relative positions, pooled tokens), all of its rows
  count and each batch runs alone; the column `activations_counted` of `trials` says for how many layers this is so.
  If a layer is called several times, the calls are summed.
- **Criteria**: which of them score every prunable tensor. The tests compare them with a plain loop in float64 on ten
  of these architectures.
- **Shortcuts off**: the shortcuts (`deepcuts/trial/shortcuts.py`) that are not taken, because they fail on this
  network or give other numbers. Each is compared with the plain network when the network is loaded, or covered by a
  test of its class.
- **Padding matters**: whether the outputs for a text depend on how its batch is padded.
- **Export**: whether transformers alone, given the exported folder and one text at a time, gives the outputs that the
  trial recorded. Where they differ, outputs depend on the padding of a batch, or are drawn at random (yoso).

GPT-2 and GPT store a weight as (inputs, outputs), and so its mask and its scores. `Row` strategies still compare the
inputs of one output, but `density` calls the inputs rows and the outputs columns.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    chosen = parser.parse_args().kinds or list(KINDS)
    silence_transformers()
    warnings.simplefilter("ignore")
    print(INTRODUCTION.format(version=transformers.__version__))
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["DEEPCUTS_CACHE"] = str(Path(temporary) / "cache")
        data = write_data(Path(temporary))
        for number, kind in enumerate(chosen):
            row = try_kind(kind, Path(temporary) / kind, data)
            if number == 0:
                print(f"| {' | '.join(row)} |\n|{' --- |' * len(row)}")
            print(f"| {' | '.join(row.values())} |", flush=True)


if __name__ == "__main__":
    main()
