"""Cache, doctor and compact, on a store of a few trials of the built-in toy."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders.toy_sweeps import SWEEP, run_file

from deepcuts.cli.main import main
from deepcuts.store.cache import shared_stages
from deepcuts.store.compact import compact
from deepcuts.store.live import Beat
from deepcuts.store.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep file, and beside it a store that has all of its trials."""
    folder = tmp_path_factory.mktemp("upkeep")
    (folder / "small.yaml").write_text(SWEEP)
    run_file(folder / "small.yaml", folder / "store")
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "store", tmp_path / "store")
    return tmp_path / "store"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, object]]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


pytestmark = pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")


def test_a_sound_store_is_found_sound(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "doctor", str(copy)) == (0, [])
    assert main(["doctor", str(copy)]) == 0
    assert capsys.readouterr().out == ""


def test_doctor_prints_json_alone_also_when_it_mends(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = leave_a_working_file(copy)
    code = main(["doctor", str(copy), "--fix", "--json"])
    shown = capsys.readouterr()
    assert (code, [finding["path"] for finding in json.loads(shown.out)]) == (0, [where])
    assert "run the sweep again to make anew what is missing" in shown.err


def spoil_the_masks(store: Path) -> str:
    path = sorted((store / "masks").glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:100])
    return f"masks/{path.name}"


def spoil_the_network(store: Path) -> str:
    path = next((store / "artifacts" / "dense").glob("*/model.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return f"artifacts/dense/{path.parent.name}"


def forget_the_meta(store: Path) -> str:
    path = next((store / "artifacts" / "scores").glob("*/meta.json"))
    path.unlink()
    return f"artifacts/scores/{path.parent.name}"


def lose_the_metrics(store: Path) -> str:
    path = sorted((store / "metrics").glob("*.parquet"))[0]
    path.unlink()
    return f"trials/{path.name}"


def leave_a_working_file(store: Path) -> str:
    (store / "trials" / "_half.parquet.ab12").write_bytes(b"PAR1")
    return "trials/_half.parquet.ab12"


def put_a_foreign_file(store: Path) -> str:
    (store / "trials" / "notes.parquet").write_text("hello")
    return "trials/notes.parquet"


def change_a_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def change_a_byte_of_the_masks(store: Path) -> str:
    path = sorted((store / "masks").glob("*.parquet"))[0]
    change_a_byte(path, path.stat().st_size // 3)
    return f"masks/{path.name}"


def change_a_setting_of_the_sweep(store: Path) -> str:
    change_a_byte(store / "sweeps/small.yaml", 60)
    return "sweeps/small.yaml"


def lose_a_trial(store: Path) -> str:
    path = sorted((store / "trials").glob("*.parquet"))[0]
    path.unlink()
    return f"metrics/{path.name}"


def lose_the_table_of_the_sweep(store: Path) -> str:
    (store / "sweeps/small.parquet").unlink()
    return "sweeps/small.parquet"


HARMS = [spoil_the_masks, spoil_the_network, forget_the_meta, lose_the_metrics, leave_a_working_file]
HARMS += [put_a_foreign_file, change_a_byte_of_the_masks, change_a_setting_of_the_sweep, lose_a_trial]
HARMS += [lose_the_table_of_the_sweep]


@pytest.mark.parametrize("harm", HARMS)
def test_doctor_names_what_is_broken_and_after_fix_the_same_run_completes(
    harm: object, copy: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = harm(copy)  # type: ignore[operator]
    code, findings = said(capsys, "doctor", str(copy))
    assert code == 1
    assert where in {finding["path"] for finding in findings}
    assert main(["doctor", str(copy), "--fix"]) == 0
    capsys.readouterr()
    assert not (copy / where).exists()
    run_file(finished / "small.yaml", copy)
    code, findings = said(capsys, "doctor", str(copy))
    assert (code, findings) == (0, [])
    for table in ("masks", "predictions"):
        again, before = (Store(str(store)).read(table).table.to_pylist() for store in (copy, finished / "store"))
        assert again == before


def test_cache_lists_who_uses_what_and_collects_what_nobody_needs(
    copy: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = said(capsys, "cache", str(copy))
    assert code == 0
    assert [(row["kind"], row["what"], row["used_by"], row["needed"]) for row in rows] == [
        ("dense", "toy seed 0", 3, False),
        ("scores", "toy seed 0 GradCAM", 1, False),
    ]
    next(iter((copy / "trials").iterdir())).unlink()
    assert all(row["needed"] for row in said(capsys, "cache", str(copy))[1])
    assert said(capsys, "cache", str(copy), "--gc")[1] == []
    run_file(finished / "small.yaml", copy)
    assert len(said(capsys, "cache", str(copy), "--gc")[1]) == 2
    assert not list((copy / "artifacts" / "dense").iterdir())


def test_compact_changes_no_answer_and_leaves_fewer_files(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = [
        ("table", str(copy)),
        ("iou", str(copy)),
        ("query", str(copy), "select count(*) n, max(value) m, min(value) s from metrics"),
        ("query", str(copy), "select trial_id, sum(kept) k from masks group by 1 order by 1"),
        ("status", str(copy)),
    ]
    before = [said(capsys, *query) for query in queries]
    assert [row["files"] for row in said(capsys, "compact", str(copy))[1]] == [2, 3, 3, 3]
    [trials] = (copy / "trials").iterdir()
    assert pq.read_metadata(trials).num_row_groups == 1  # opened at once, however many trials are in it
    [masks] = (copy / "masks").iterdir()
    assert pq.read_metadata(masks).num_row_groups == pq.read_metadata(masks).num_rows
    assert [said(capsys, *query) for query in queries] == before
    assert said(capsys, "doctor", str(copy)) == (0, [])
    assert compact(Store(str(copy))) == []


def test_compact_that_is_killed_halfway_loses_and_repeats_nothing(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = said(capsys, "query", str(copy), "select count(*) n from trials")
    delete, calls = Store.delete, []

    def dies(self: Store, name: str) -> None:
        calls.append(name)
        if len(calls) > 4:
            raise KeyboardInterrupt
        delete(self, name)

    monkeypatch.setattr(Store, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        compact(Store(str(copy)))
    monkeypatch.undo()
    assert said(capsys, "query", str(copy), "select count(*) n from trials") == before
    assert set(Store(str(copy)).statuses().values()) == {"completed"}


def test_the_checkpoint_of_a_compacted_trial_can_go_and_that_of_a_stage_stays(copy: Path) -> None:
    store = Store(str(copy))
    store.write("sweeps", "more", [{"sweep": "more", "trial_id": "absent", "dataset": "other", "seed": 9}])
    compact(store)
    trial_id = next(iter(store.statuses()))
    for key in (trial_id, "of-a-stage", "absent"):
        store.write_bytes(f"artifacts/_checkpoints/{key}.safetensors", b"state")
    needed = {row["id"]: row["needed"] for row in shared_stages(store) if row["kind"] == "checkpoint"}
    assert needed == {trial_id: False, "of-a-stage": True, "absent": True}


def test_nothing_is_collected_or_mended_under_a_running_trial(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 0.2)
    with Beat(Store(str(copy)), "0123456789abcdef", "other", []):
        assert main(["cache", str(copy), "--gc"]) == 2
        assert "in use" in capsys.readouterr().err
    assert list((copy / "artifacts" / "dense").iterdir())
