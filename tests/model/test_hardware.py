"""What the hardware that a trial ran on is called in its row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepcuts.model import hardware
from deepcuts.model.hardware import device_name

XEON = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16 amx_tile

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16 amx_tile
"""
EPYC = "model name\t: AMD EPYC\nflags\t\t: fpu sse2 {}\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (XEON, "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (amx_bf16)"),
        (EPYC.format("avx2 avx512f avx512_bf16"), "AMD EPYC (avx512_bf16)"),
        (EPYC.format("avx2 avx512f"), "AMD EPYC (avx512f)"),
        (EPYC.format("avx2"), "AMD EPYC (avx2)"),
        (EPYC.format(""), "AMD EPYC"),
        (ARM, "aarch64 (sve)"),
        ("", "aarch64"),
        (None, "aarch64"),
    ],
)
def test_a_processor_is_called_by_its_name_and_its_widest_instructions(
    text: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "_PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware.platform, "processor", lambda: "")
    monkeypatch.setattr(hardware.platform, "machine", lambda: "aarch64")
    assert device_name(torch.device("cpu")) == name


def test_a_gpu_is_called_as_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA of {device.index}")
    assert device_name(torch.device("cuda", 1)) == "NVIDIA of 1"
