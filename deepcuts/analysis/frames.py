"""Reads the store's tables as frames, by filter or by SQL.

Every frame names in `.attrs["damaged"]` the files that could not be read (path to reason).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from deepcuts.analysis.arms import OF_ARMS, setting_columns, with_arms
from deepcuts.names import find_id, nearest
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.store.live import at_work
from deepcuts.store.store import SCHEMAS, Store
from deepcuts.store.tables import CHECKED

if TYPE_CHECKING:
    import duckdb  # at run time only a query loads it: it takes a fifth of a second

Value = str | int | float | bool | None


def trials(store: Store, columns: Sequence[str] | None = None, **filters: Value | Sequence[Value]) -> pd.DataFrame:
    """Return the completed and failed trials, a row each, in all columns of the table or in those given.

    A filter is a column with a value (None: null) or with a list of values: `trials(store, dataset="cola",
    seed=[0, 1])`. `sweep` filters by the trials that a sweep wants, whichever sweep ran them.

    `arm` is what the sweep file calls the trial's arm: of the sweep that is asked for, else of the newest sweep that
    wants the trial, else of the one that ran it. `with_arms` tells apart what has one name and other settings. A `step`
    is a round of iterative pruning that no sweep asks for as a level: views leave it out.

    Raises ValueError where there is no store, and for an unknown column or sweep, naming the nearest known one.

    >>> dc.trials(store, dataset="toy", seed=[0, 1])
    """
    sweep = filters.pop("sweep", None)
    named = {"arm": filters.pop("arm")} if "arm" in filters else {}
    where = _expression("trials", filters)
    if sweep is not None:
        wanted = ds.field("trial_id").isin(wanted_by(store, _listed(sweep)))
        where = wanted if where is None else where & wanted
    asked = list(columns or SCHEMAS["trials"].names)
    if not named and "arm" not in asked:
        return _frame(store, "trials", asked, where)
    frame = _frame(store, "trials", list(dict.fromkeys([*asked, "arm", "trial_id", "strategy"])), where)
    damaged = frame.attrs["damaged"]
    frame["arm"], labels = labelled(store, frame, None if sweep is None else _listed(sweep), damaged)
    if "step" in frame and frame["step"].any():
        frame["step"] = frame["step"].where(~frame["trial_id"].isin(_levels_of_sweeps(store)), False)
    for name in named.values():
        frame = frame[frame["arm"].isin(_listed(name))]
    frame = frame[asked].reset_index(drop=True)
    frame.attrs = {"damaged": damaged, "labels": labels}
    return frame


def labelled(
    store: Store, rows: pd.DataFrame, sweeps: Sequence[Value] | None, damaged: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Return what sweep files call the trials: those of `sweeps`, by default of all, the newest first.

    The second list has the labels of these sweeps, from the oldest to the newest.
    """
    read = store.read("sweeps", ["sweep", "trial_id", "strategy", "arm"])
    damaged |= read.damaged
    ages = {sweep: age for age, sweep in enumerate(sweeps_by_age(store))}
    wanted = [row for row in read.table.to_pylist() if sweeps is None or row["sweep"] in sweeps]
    wanted.sort(key=lambda row: (ages.get(row["sweep"], -1), row["sweep"]))
    names = {row["trial_id"]: row["arm"] or row["strategy"] for row in wanted}
    columns = ("trial_id", "strategy", "arm")
    known = zip(*(rows[name].astype(object) for name in columns), strict=True)  # as pandas' own strings, it takes long
    called = [strategy if strategy in NOT_PRUNED else names.get(key, arm or strategy) for key, strategy, arm in known]
    return called, list(dict.fromkeys(row["arm"] or row["strategy"] for row in reversed(wanted)))[::-1]


def sweeps_by_age(store: Store) -> list[str]:
    """Return the sweeps that have a table of what they want, from the one that was run first to the one run last."""
    tables = [info for info in store.listing("sweeps") if info.base_name.endswith(".parquet")]
    return [
        info.base_name.removesuffix(".parquet")
        for info in sorted(tables, key=lambda info: (info.mtime_ns or 0, info.base_name))
    ]


def _levels_of_sweeps(store: Store) -> list[str]:
    """Return the ids of the trials that some sweep asks for as levels of their own."""
    rows = store.read("sweeps", ["trial_id", "step"]).table.to_pylist()
    return sorted({row["trial_id"] for row in rows if not row["step"]})


def metrics(store: Store, columns: Sequence[str] | None = None, **filters: Value | Sequence[Value]) -> pd.DataFrame:
    """Return every measured number of the trials, a row for each stage, epoch, split and metric.

    Filters, columns and errors are those of `trials`, over the columns of `metrics`.

    >>> dc.metrics(store, stage="retrained", metric="accuracy")
    """
    return _frame(store, "metrics", columns, _expression("metrics", filters))


def mask_counts(store: Store, columns: Sequence[str] | None = None, **filters: Value | Sequence[Value]) -> pd.DataFrame:
    """Return a row for each pruned tensor: `shape`, `size` and weights `kept`, without `bits` unless asked for.

    Filters, columns and errors are those of `trials`, over the columns of `masks`.

    >>> dc.mask_counts(store, parameter="weight")
    """
    light = [name for name in SCHEMAS["masks"].names if name != "bits"]
    return _frame(store, "masks", columns or light, _expression("masks", filters))


def _listed(value: Value | Sequence[Value]) -> list[Value]:
    return [value] if value is None or isinstance(value, str | int | float) else list(value)


def _check_column(table: str, name: str) -> None:
    known = SCHEMAS[table].names
    if name not in known:
        raise ValueError(f"{table} has no column {name!r}{nearest(name, known) or ';'} it has {', '.join(known)}")


def _expression(table: str, filters: dict[str, Value | Sequence[Value]]) -> ds.Expression | None:
    """Combine the filters into one expression to read Parquet with; None if there are none."""
    where = None
    for name, value in filters.items():
        _check_column(table, name)
        values = _listed(value)
        given = pa.array([one for one in values if one is not None], SCHEMAS[table].field(name).type)
        matches = ds.field(name).isin(given)
        if None in values:
            matches = matches | ds.field(name).is_null()
        where = matches if where is None else where & matches
    return where


def wanted_by(store: Store, sweeps: Sequence[Value]) -> list[str]:
    """Return the ids of the trials that the sweeps want; of a sweep without rows in `sweeps`, those that it ran.

    Raises ValueError for an unknown sweep, naming the nearest.
    """
    rows = store.read("sweeps", ["sweep", "trial_id"]).table.to_pylist()
    tabled = {row["sweep"] for row in rows}
    rows += [row for row in store.read("trials", ["sweep", "trial_id"]).table.to_pylist() if row["sweep"] not in tabled]
    known = sorted({row["sweep"] for row in rows if row["sweep"] is not None})
    for sweep in sweeps:
        if sweep not in known:
            raise ValueError(f"unknown sweep {sweep!r}{nearest(str(sweep), known) or ';'} known: {', '.join(known)}")
    return sorted({row["trial_id"] for row in rows if row["sweep"] in sweeps})


def _frame(store: Store, table: str, columns: Sequence[str] | None, where: ds.Expression | None) -> pd.DataFrame:
    names = list(columns or SCHEMAS[table].names)
    for name in names:
        _check_column(table, name)
    store.check_exists()
    read = store.read(table, names, where)
    frame = read.table.to_pandas()
    frame.attrs["damaged"] = read.damaged
    return frame


# Progress


def status(store: Store, by_arm: bool = False) -> pd.DataFrame:
    """How far each sweep of a store is: `sweep, trials` (wanted), `completed, failed, running, left`.

    With `by_arm` a row per sweep and `arm`, as its sweep file calls it. A trial is running while its process is seen at
    work, which may take some seconds to tell. `attrs["unwanted"]` counts the completed trials that no sweep wants: of a
    sweep whose file was changed since, or of `run_trial`.

    >>> dc.status(dc.Store("results"))
    """
    read = store.read("sweeps", ["sweep", "trial_id", "strategy", "arm"])
    statuses, damaged = store.read_statuses()
    running = at_work(store)
    keys = ["sweep", "arm"] if by_arm else ["sweep"]
    wanted: dict[tuple[str, ...], list[str]] = {}
    for row in read.table.to_pylist():
        row["arm"] = row["arm"] or row["strategy"]
        wanted.setdefault(tuple(row[key] for key in keys), []).append(row["trial_id"])
    rows = []
    for key, ids in wanted.items():
        states = [statuses.get(trial_id) for trial_id in ids]
        completed, failed = states.count("completed"), states.count("failed")
        working = sum(each in running and statuses.get(each) != "completed" for each in ids)
        left = len(ids) - completed - failed
        rows.append((*key, len(ids), completed, failed, working, left))
    frame = pd.DataFrame(rows, columns=[*keys, "trials", "completed", "failed", "running", "left"])
    frame = frame.sort_values("sweep", kind="stable", ignore_index=True)
    completed_ids = {trial_id for trial_id, state in statuses.items() if state == "completed"}
    frame.attrs["unwanted"] = len(completed_ids.difference(*wanted.values()))
    frame.attrs["damaged"] = damaged | read.damaged
    return frame


def show(store: Store, trial: str) -> pd.DataFrame:
    """Everything about one trial, an id or a unique prefix of one: its row of `trials`, values as they are stored.

    `arm` is what `trials` calls it. Raises ValueError for an unknown trial, naming the nearest and the files that could
    not be read.

    >>> dc.show(store, trials["trial_id"].iloc[0]).T
    """
    ids = store.read("trials", ["trial_id"])
    damaged = dict(ids.damaged)
    try:
        found = find_id(trial, ids.table["trial_id"].to_pylist())
        read = store.read("trials", where=ds.field("trial_id") == found)
        damaged |= read.damaged
        if not len(read.table):
            raise ValueError(f"the row of trial {found!r} cannot be read")
    except ValueError as error:
        unread = "".join(f"; damaged: {path}: {reason}" for path, reason in damaged.items())
        raise ValueError(f"{error}{unread}") from None
    frame = pd.DataFrame(read.table.to_pylist(), dtype=object)
    frame["arm"], _ = labelled(store, frame, None, damaged)
    frame.attrs["damaged"] = damaged
    return frame


# SQL


def query(store: Store, sql: str) -> pd.DataFrame:
    """Return the rows of one SELECT (or EXPLAIN) in DuckDB's SQL over the store's tables, by their names.

    The view `settings` has a row per trial: `trial_id`, the `arm` as all views call it (in `trials`, `arm` is the label
    with which the trial ran, null if an earlier version ran it), and a column for each setting in which trials differ,
    called as in the sweep file (`"retrain.epochs"`, in double quotes in SQL).

    A query only reads. Raises ValueError for a mistake in the SQL, for a statement that would write, and for one
    that reaches outside the store. Example: `query(store, "SELECT dataset, avg(retrained) FROM trials GROUP BY 1")`.

    >>> dc.query(store, "select strategy, avg(retrained) from trials group by 1")
    """
    import duckdb

    _check_statement(sql)
    store.check_exists()
    try:
        return _select(store, sql, {})
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
        raise ValueError(_shortened(error)) from None
    except (duckdb.Error, pa.ArrowException, OSError):  # a damaged file, or one that was gone or stale for a moment
        damaged = {path: reason for table in SCHEMAS for path, reason in store.read(table).damaged.items()}
    try:
        return _select(store, sql, damaged)
    except duckdb.Error as error:
        raise ValueError(_shortened(error)) from None


def _check_statement(sql: str) -> None:
    import duckdb

    try:
        kinds = [statement.type for statement in duckdb.extract_statements(sql)]
    except duckdb.Error as error:
        raise ValueError(_shortened(error)) from None
    if len(kinds) != 1 or kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        found = ", ".join(kind.name for kind in kinds) or "nothing"
        raise ValueError(f"a query is one SELECT, and this is {found}: {sql.strip()!r}; the store is only read")


def _select(store: Store, sql: str, damaged: dict[str, str]) -> pd.DataFrame:
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "python_enable_replacements": "false",
            "lock_configuration": "true",
        },
    )
    with connection:
        for table in SCHEMAS:
            _register(connection, store, table, damaged)
        if "settings" in sql.lower():
            connection.register("settings", _settings_view(store))
        found = connection.sql(sql).to_arrow_table()
        frame = found.rename_columns(_told_apart(found.column_names)).to_pandas()
    frame.attrs["damaged"] = damaged
    return frame


def _told_apart(names: Sequence[str]) -> list[str]:
    """Return names of columns that are there once: of a join of two tables, `arm` and `arm_1`."""
    told: list[str] = []
    for name in names:
        others = (f"{name}_{number}" for number in count(1))
        told.append(name if name not in told else next(each for each in others if each not in {*told, *names}))
    return told


def _register(connection: duckdb.DuckDBPyConnection, store: Store, table: str, damaged: dict[str, str]) -> None:
    """Create a view of the table: the trials' own files, and of each compacted file the rows that count."""
    own, compacted = store.files(table)
    paths = [path for path in (store.path(table, name) for name in own) if path not in damaged]
    connection.register(f"_{table}", _dataset(store, table, paths))
    view = f"SELECT * FROM _{table}"
    for number, (path, ids) in enumerate(store.superseded(table, own, compacted, damaged).items()):
        if path not in damaged:
            connection.register(f"_{table}_{number}", _dataset(store, table, [path]))
            connection.register(f"_not_{table}_{number}", pa.table({"id": pa.array(ids, pa.string())}))
            view += f" UNION ALL FROM _{table}_{number} WHERE trial_id NOT IN (FROM _not_{table}_{number})"
    connection.execute(f"CREATE VIEW {table} AS {view}")


def _settings_view(store: Store) -> pa.Table:
    """Return a row per trial: its arm, and each setting in which trials differ; as text where types are mixed."""
    frame = with_arms(trials(store, OF_ARMS))
    columns: dict[str, pa.Array] = {name: pa.array(frame[name], pa.string()) for name in ("trial_id", "arm")}
    for name, values in setting_columns(frame).items():
        try:
            columns[str(name)] = pa.array(list(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[str(name)] = pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.table(columns)


def _dataset(store: Store, table: str, paths: list[str]) -> ds.Dataset:
    return ds.dataset(paths, SCHEMAS[table], format=CHECKED, filesystem=store.filesystem)


def _shortened(error: Exception) -> str:
    """Return the first lines of DuckDB's message: what is wrong, and the nearest names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2])[:400]
