"""What is known of machines that a plan may be made for: how fast a training step is guessed to be on each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Arithmetic = Literal["fp32", "tf32", "bf16"]

# The share of its peak that a training step of a small encoder on short texts is guessed to reach on a GPU: on the CPU
# of docs/performance.md it was 32% in fp32 and 6% in bf16, whose products are too small to fill the units for them.
REACHED: Mapping[Arithmetic, float] = {"fp32": 0.3, "tf32": 0.15, "bf16": 0.13}
# The seconds that a training step takes at least, however small the network is. On a GPU it launches several hundred
# kernels, which take some 10 µs each; on a CPU core it is that of the quickstart's network.
STEP_SECONDS = {"cuda": 5e-3, "cpu": 1e-2}
# FLOP/s that a training step is guessed to reach per core of a CPU with AVX-512, and of any other. The Xeon of
# docs/performance.md reached 1.5e11 in fp32 and 1.9e11 in bf16; others, with vectors half as wide, are unmeasured.
AVX512_CORE, OTHER_CORE = 1e11, 3e10


def core_speed() -> float:
    """Return the FLOP/s that a training step is guessed to reach on a core of this machine."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:  # not Linux
        return OTHER_CORE
    return AVX512_CORE if re.search(r"\bavx512f\b", flags) else OTHER_CORE


@dataclass(frozen=True)
class Device:
    """A kind of GPU: its peak FLOP/s by arithmetic, from its maker's data sheet. What it lacks runs in fp32."""

    name: str
    peaks: Mapping[Arithmetic, float]

    def speed(self, arithmetic: Arithmetic) -> float:
        """Return the FLOP/s that a training step is guessed to reach."""
        used = arithmetic if arithmetic in self.peaks else "fp32"
        return self.peaks[used] * REACHED[used]

    def is_called(self, name: str) -> bool:
        """Whether torch calls a device of this kind so, as in `NVIDIA A100-SXM4-80GB`."""
        return re.search(rf"\b{self.name.replace('rtx', 'rtx ')}\b", name.casefold()) is not None


# NVIDIA's data sheets of the T4, V100 (SXM2), A100, L4 and H100 (SXM; also those of the H200), and its white papers of
# the architectures GA102 (RTX 3090) and Ada (RTX 4090); without sparsity.
DEVICES = {
    device.name: device
    for device in (
        Device("t4", {"fp32": 8.1e12}),
        Device("v100", {"fp32": 15.7e12}),
        Device("a100", {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12}),
        Device("l4", {"fp32": 30.3e12, "tf32": 60e12, "bf16": 121e12}),
        Device("h100", {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12}),
        Device("h200", {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12}),
        Device("rtx3090", {"fp32": 35.6e12, "tf32": 35.6e12, "bf16": 71e12}),
        Device("rtx4090", {"fp32": 82.6e12, "tf32": 82.6e12, "bf16": 165e12}),
    )
}
# What stands for a GPU of which nothing is known.
UNKNOWN = DEVICES["a100"]
# What a plan may be made for.
ELSEWHERE = ("cpu", "gpu", *DEVICES)
