"""A process computes deterministically, keeps freed memory and prepares each product once."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from deepcuts.fast.process import prepare_process


@pytest.mark.usefixtures("torch_state")
def test_a_process_is_made_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare_process(1, tf32=False)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1
    assert not torch.backends.cuda.matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # without it CUDA refuses to multiply


FAULTS = """
import ctypes, resource, torch
from deepcuts.fast.process import MMAP_THRESHOLD, keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**22) for _ in range(8)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**17)  # give every large block back at once
given_back = [faults() for _ in range(4)]
keep_memory()
kept = [faults() for _ in range(5)]  # in the first ones, blocks still find their places
print(min(given_back), kept[-1])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_kept() -> None:
    """In a separate process, whose heap is still empty."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 30_000  # of 32,768 pages
    assert kept < 100


PRODUCTS = """
import torch
from deepcuts.fast.packed_linear import _pack, _product
from deepcuts.fast.process import prepare_process

prepare_process(1, tf32=False)
weight = _pack(torch.ones(16, 16))
for _ in range(2):
    print("round", flush=True)
    for rows in range(1, 1201):
        _product(torch.ones(rows, 16), weight)
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_products_of_many_shapes_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a separate process, in which oneDNN has prepared none."""
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_VERBOSE", "profile_create")
    done = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, check=True)
    _, first, again = done.stdout.split("round\n")
    assert first.count("create:cache_miss") > 1024
    assert again.count("create:cache_miss") == 0
    assert again.count("create:cache_hit") >= 1200
