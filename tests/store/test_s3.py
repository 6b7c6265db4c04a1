"""The store on S3: a real server of its protocol on loopback, and a wire to it that can be cut."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from builders.toy_sweeps import numbers, run_missing, toy_sweep

from deepcuts.cli.main import main
from deepcuts.store.cache import collect_garbage, shared_stages
from deepcuts.store.compact import compact
from deepcuts.store.doctor import examine_store, mend_store
from deepcuts.store.store import Store
from deepcuts.sweep.worker import _wait_for
from deepcuts.trial.context import Context
from deepcuts.trial.trial import run_stages

pytest.importorskip("moto.server", reason="moto is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
    pytest.mark.filterwarnings("default::DeprecationWarning"),
]


class Wire:
    """A TCP relay to a port, which can be cut (connections end at once), answer with errors, and be mended."""

    def __init__(self, port: int) -> None:
        self.target, self.up, self.error = port, True, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.error:
                near.recv(1 << 16)
                near.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            if self.error or not self.up:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while self.up and not self.error and (content := source.recv(1 << 16)):
                sink.sendall(content)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running.get_host_and_port()[1]
    running.stop()


@pytest.fixture
def wire(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    wire = Wire(server)
    yield wire
    wire.listener.close()


@pytest.fixture
def uri(wire: Wire, request: pytest.FixtureRequest) -> str:
    """A fresh prefix in a bucket that exists, reached through the wire."""
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{wire.port}", region_name="us-east-1")
    client.create_bucket(Bucket="deepcuts")
    return (
        f"s3://deepcuts/{request.node.name[:40]}?endpoint_override=127.0.0.1:{wire.port}&scheme=http&region=us-east-1"
    )


def test_a_sweep_its_resume_and_its_analysis_work_on_s3(
    uri: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(uri)
    store.probe()
    assert run_missing(store) == 3
    assert run_missing(store) == 0
    local = Store(str(tmp_path_factory.mktemp("local")))
    run_missing(local)
    assert numbers(store) == numbers(local)
    assert main(["table", uri]) == 0
    assert main(["query", uri, "select strategy, retrained from trials order by 1"]) == 0
    assert "LayerGradCAM" in capsys.readouterr().out
    assert main(["iou", uri, "--json"]) == 0
    assert [row["used_by"] for row in shared_stages(store)] == [3, 1]
    assert {finding.path for finding in examine_store(store, busy=False)} == {"sweeps/small.parquet"}  # of no launch
    store.write_bytes("trials/broken.parquet", b"PAR1")
    findings = examine_store(store, busy=False)
    assert [finding.path for finding in findings] == ["trials/broken.parquet", "sweeps/small.parquet"]
    mend_store(store, findings)
    assert {finding.path for finding in examine_store(store, busy=False)} == {"sweeps/small.parquet"}  # of no launch
    assert [row["files"] for row in compact(store)] == [2, 3, 3, 3]
    assert set(store.statuses().values()) == {"completed"}
    assert len(collect_garbage(store)) == 2
    assert run_missing(store) == 0


def test_a_server_that_stops_for_a_while_costs_a_retry_and_no_result(uri: str, wire: Wire) -> None:

    store = Store(uri)
    wire.up = False
    with pytest.raises(OSError, match=r"."):
        run_missing(store)
    threading.Timer(4, lambda: setattr(wire, "up", True)).start()
    began = time.monotonic()
    _wait_for(store)
    assert time.monotonic() - began > 1
    assert run_missing(store) == 3
    assert set(store.statuses().values()) == {"completed"}


def test_a_server_that_answers_with_errors_is_an_infrastructure_failure(uri: str, wire: Wire) -> None:
    store = Store(uri)
    wire.error = True
    with pytest.raises(OSError, match=r"."):
        run_missing(store)
    wire.error = False
    assert run_missing(store) == 3


def test_a_wire_that_is_cut_in_the_middle_leaves_no_half_result(uri: str, wire: Wire) -> None:
    store = Store(uri)
    trials = toy_sweep().trials()
    write, writes = Store.write, []

    def cut_at_the_row(self: Store, table: str, key: str, rows: list[dict[str, object]]) -> None:
        writes.append(table)
        wire.up = table != "trials"
        write(self, table, key, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", cut_at_the_row)
        with pytest.raises(OSError, match=r"."):
            run_stages(trials[1], "small", Context(store, 1))
    assert writes[-1] == "trials"
    wire.up = True
    assert store.statuses() == {}
    assert run_missing(store) == 3


def test_a_wire_that_is_cut_while_a_store_is_examined_is_no_damage(uri: str, wire: Wire) -> None:
    store = Store(uri)
    assert run_missing(store) == 3
    sound = examine_store(store, busy=False)
    download, names = Store._download, list[str]()

    def cut_at_the_masks(self: Store, name: str, copy: Path) -> None:
        names.append(name)
        wire.up = not name.startswith("masks/")
        download(self, name, copy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_download", cut_at_the_masks)
        with pytest.raises(OSError, match=r"NETWORK_CONNECTION"):
            examine_store(store, busy=False)
    assert names[-1].startswith("masks/")
    wire.up = True
    assert examine_store(store, busy=False) == sound
