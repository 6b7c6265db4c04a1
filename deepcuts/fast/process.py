"""Sets up how this process computes: deterministically, in a fixed number of threads, and keeping freed memory."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

# Parameters of `mallopt`, from glibc's malloc.h, and their values in bytes. Both thresholds are at their largest. The
# heap of a thread (64 MB) would only be given back if more than TOP_PAD of it were free.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MALLOC_SETTINGS = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2**28}
# How many products oneDNN remembers, one for each combination of shapes. Batches of all lengths need more than its
# default of 1,024, and preparing a product again takes 0.5 to 2 ms.
ONEDNN_PRODUCTS = 8192


def prepare_process(threads: int, tf32: bool) -> None:
    """Make this process deterministic to the bit, with a fixed number of threads, and let it keep freed memory."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA refuses to multiply without it
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(ONEDNN_PRODUCTS))  # read at the first product
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode fills new tensors, although nothing reads the fill: up to a tenth of a step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    keep_memory()


def keep_memory() -> None:
    """Let malloc keep freed blocks of up to 32 MB instead of returning them to the system.

    Gradients are freed and allocated again with every batch, and getting fresh pages for them took up to a sixth of a
    CPU's time. Does nothing where the C library is not glibc.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for parameter, value in MALLOC_SETTINGS.items():
            accepted = library.mallopt(parameter, value)
            assert accepted == 1, f"mallopt refuses {parameter}={value}"
