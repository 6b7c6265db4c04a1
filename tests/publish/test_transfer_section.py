"""The report's section of masks that are taken from others."""

from __future__ import annotations

import re
from pathlib import Path

from builders.transfers import transfer_store, transfers

from deepcuts.publish.report import report
from deepcuts.store.store import Store


def test_a_store_with_masks_of_others_has_the_section_with_figure_table_and_what_is_missing(tmp_path: Path) -> None:
    trials = transfers()
    missing = (trials["arm"] == "shuffled of cola") & (trials["seed"] == 2)
    store = transfer_store(Store(str(tmp_path / "store")), trials[~missing])
    text = report(store).text
    (found,) = re.findall(r'<section id="transfer".*?</section>', text, re.DOTALL)
    assert '<a href="#transfer">Mask transfer</a>' in text
    assert '<img src="data:image/svg+xml;base64,' in found
    assert "own at 64 %, shuffled: sst2 with the mask of cola lacks seed 2" in found
    assert re.search(r"<td>sst2</td><td>cola</td><td>matthews</td><td[^>]*>0.395 \(0.383 to 0.407\)", found)
    own = report(store, only={"arm": ["own"], "dataset": ["cola"]}).text
    assert 'id="transfer"' not in own
    assert "Mask transfer" not in own
