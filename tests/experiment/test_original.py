"""`sweeps/seed.yaml` makes every choice of the original code that docs/original.md says it makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent


def leaves(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return the settings of a sweep file that are no mapping, by their names with dots."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= leaves(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found


def test_the_seeds_sweep_sets_what_the_page_names() -> None:
    rows = [line.split("|") for line in (ROOT / "docs" / "original.md").read_text().splitlines() if line[:1] == "|"]
    named = [pair for row in rows for pair in re.findall(r"`([a-z_.]+): (\w+)`", row[-2])]
    assert len(named) >= 6
    chosen = leaves(yaml.safe_load((ROOT / "sweeps" / "seed.yaml").read_text()))
    for key, value in named:
        values = [found for name, found in chosen.items() if f".{name}".endswith(f".{key}")]
        assert values == [yaml.safe_load(value)], key
