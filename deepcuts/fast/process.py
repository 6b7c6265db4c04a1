"""How this process computes: bit for bit repeatably, in so many threads, keeping the memory that it has."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

# Of glibc's malloc.h: parameters of `mallopt`, two at their largest. More than TOP_PAD would have to be free before the
# heap of a thread (64 MB) is given back.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2**28}
# How many products oneDNN remembers, each of other shapes. Batches of all lengths have more than the 1,024 of its
# default, and to make one anew takes half a millisecond to two.
PRODUCTS = 8192


def prepare_process(threads: int, tf32: bool) -> None:
    """Make this process repeat itself bit for bit, in a fixed number of threads, and keep its memory."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it deterministic CUDA refuses to multiply
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRODUCTS))  # read at the process's first product
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling what nobody reads takes up to a tenth of a step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    keep_memory()


def keep_memory() -> None:
    """Keep freed blocks of up to 32 MB: gradients come and go with every batch, and to fetch their pages anew took a
    CPU up to a sixth of it. Does nothing where the C library is not glibc."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for parameter, value in SETTINGS.items():
            taken = library.mallopt(parameter, value)
            assert taken == 1, f"mallopt refuses {parameter}={value}"
