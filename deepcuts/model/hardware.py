"""Says on which hardware a network runs."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

_PROCESSORS = Path("/proc/cpuinfo")
# The instructions that decide which kernels multiply matrices, and so the bits of their sums, as Linux calls those of
# x86 and of Arm: the widest first.
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "sve2", "sve", "bf16")


def device_name(device: torch.device) -> str:
    """Return what a GPU is called, as `NVIDIA H200`, or a processor, as `AMD EPYC (avx512_bf16)`.

    Virtual machines hide which processor they have, but not its instructions: two that differ in either may compute
    other bits.
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()


def _processor_name() -> str:
    try:
        text = _PROCESSORS.read_text("utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    found = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", text, re.MULTILINE))
    name = found.get("model name") or platform.processor() or platform.machine() or "cpu"
    flags = (found.get("flags") or found.get("Features") or "").split()
    widest = next((each for each in _INSTRUCTIONS if each in flags), None)
    return f"{name.strip()} ({widest})" if widest else name.strip()
