from __future__ import annotations

import ctypes
import os
import resource

import pytest
import torch

from deepcuts.process import MMAP_THRESHOLD, keep_memory, prepare


@pytest.mark.usefixtures("torch_state")
def test_a_process_is_made_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare(1, tf32=False)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1
    assert not torch.backends.cuda.matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # without it CUDA refuses to multiply


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="asks glibc")
def test_freed_memory_is_kept() -> None:
    """First the system is given all back at once, so that only `keep_memory` can keep it."""
    library = ctypes.CDLL(None)

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(2**22) for _ in range(8)]
        del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert library.mallopt(MMAP_THRESHOLD, 2**17) == 1
    assert min(faults() for _ in range(3)) > 30_000  # of 32,768 pages
    keep_memory()

    for _ in range(4):  # until every block has found its place
        faults()
    assert faults() < 100
