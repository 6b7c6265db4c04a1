from __future__ import annotations

import os
import resource
import sys

import pytest
import torch

from deepcuts.process import prepare


@pytest.mark.usefixtures("torch_state")
def test_a_process_is_made_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare(1, tf32=False)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1
    assert not torch.backends.cuda.matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # without it CUDA refuses to multiply


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
@pytest.mark.usefixtures("torch_state")
def test_freed_memory_is_kept() -> None:
    """Blocks of 16 MB, larger than what malloc keeps by itself, are fetched from the system once."""
    prepare(1, tf32=False)

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(2**22) for _ in range(8)]
        del blocks
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    for _ in range(4):  # until every block has found its place
        faults()
    assert faults() < 100  # of 32,768 pages
