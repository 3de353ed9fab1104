"""Units of an experiment, read: who was in which variant, and the sums that its metrics need, in one scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from kpi_helpers.errors import require, require_known
from kpi_helpers.metrics import ROWS, Metric
from kpi_helpers.moments import Columns, Moments, RatioMoments, solved
from kpi_helpers.stats import Floats

if TYPE_CHECKING:
    import ibis.expr.types as ir

SAMPLE, UNEVEN = 10_000, 1.1  # rows for a rough mean; the largest variant by the smallest
Caps = dict[str, tuple[float, float, int]]


@dataclass(slots=True)
class Units:
    """An experiment's rows, checked: each is a unit, or `repeated` says that rows of a unit were added up to one."""

    table: "ir.Table"
    variant: str
    n_rows: int | None = None
    n_units: int | None = None
    n_both: int = 0
    n_unassigned: int = 0

    @property
    def repeated(self) -> bool:
        """Whether units had several rows."""
        return self.n_rows != self.n_units


def open_units(
    given: Any, *, unit: str | None, variant: str, metrics: Sequence[Metric], keys: Sequence[str] = ()
) -> Units:
    """Check that columns are there and that a row is a unit; of others rows are added up, units in two variants go.

    `given` is an Ibis table, a DataFrame or the path of a Parquet or CSV file; with `unit` None each row is one. `keys`
    are segments and days, of which a unit keeps its first. One query; two more where units have several rows.
    """
    rows = as_table(given)
    columns = sorted({c.lstrip("-") for m in metrics for signed in m.columns for c in signed})
    for name in filter(None, (unit, variant, *keys, *columns)):
        require_known(name, rows.columns, f"The table has no column {name!r}.")
    twice = {unit, variant} & {*keys, *columns} | set(keys) & set(columns) | {unit} & {variant}
    require(not twice, f"{', '.join(map(str, twice))} cannot be two of unit, variant, segment and metric at once.")
    if unit is None:
        return Units(rows, variant)
    per_unit = rows.group_by(unit).aggregate(**{ROWS: rows.count()})
    asked = {"rows": per_unit[ROWS].sum(), "units": per_unit.count(), "unnamed": per_unit[unit].isnull().sum()}
    n_rows, n_units, unnamed = _found(per_unit, asked).values()
    require(bool(n_rows), "The table has no rows: check the export, the mapping and the filters before it.")
    require(not unnamed, f"{unit} is empty in some rows: nobody can tell which unit they are of. Leave them out.")
    if n_rows == n_units:
        return Units(rows, variant, n_rows, n_units)
    sums = {c: _number(rows, (c,)).sum() for c in columns} | {k: rows[k].min() for k in keys}
    sums |= {variant: rows[variant].min(), " other": rows[variant].max(), ROWS: rows.count()}
    whole = rows.group_by(unit).aggregate(**sums)
    both = whole[variant] != whole[" other"]
    n_both = int(whole.filter(both).count().to_pyarrow().as_py())
    return Units(whole.filter(~both.fill_null(False)), variant, n_rows, n_units, n_both)


def _found(table: "ir.Table", asked: Mapping[str, Any]) -> dict[str, Any]:
    """Sums and the like over all rows, by name; one query."""
    found: dict[str, Any] = table.aggregate(**asked).to_pyarrow().to_pylist()[0] if asked else {}
    return found


def as_table(given: Any) -> "ir.Table":
    """An Ibis table of itself, a DataFrame or the path of a Parquet or CSV file.

    >>> as_table(pd.DataFrame({"n": [1, 2]})).count().to_pyarrow().as_py()
    2
    """
    import ibis
    import pyarrow as pa  # type: ignore[import-untyped]

    if isinstance(given, ibis.Table):
        return given
    if isinstance(given, pd.DataFrame):
        return ibis.memtable(pa.Table.from_pandas(given, preserve_index=False))
    require(isinstance(given, str | Path) and Path(given).is_file(), f"{given!r} is no file, DataFrame or Ibis table.")
    return ibis.read_csv(given) if ".csv" in Path(given).name else ibis.read_parquet(given)


def _number(table: "ir.Table", signed: Sequence[str]) -> Any:
    """Sum of signed columns, as floats: whole numbers stay exact up to 2⁵³."""
    parts = []
    for name in signed:
        column = table[name.lstrip("-")]
        dtype = column.type()
        fine = dtype.is_numeric() or dtype.is_boolean()
        require(fine, f"{name} holds {dtype}: a metric needs numbers, or true and false.")
        value = column if dtype.is_floating() else column.cast("float64")
        parts.append(-value if name.startswith("-") else value)
    return sum(parts[1:], parts[0])


def read_caps(units: Units, metrics: Sequence[Metric], cap: float | None) -> Caps:
    """Least and greatest value that the outcome of each mean counts with, and units beyond; two queries."""
    if cap is None:
        return {}
    require(0.5 < cap < 1, f"cap={cap} is no quantile in (0.5, 1). Write 0.999 to cut one unit in a thousand.")
    values = {m.names[0]: _number(units.table, m.columns[0]) for m in metrics if m.kind in ("mean", "adjusted")}
    asked = {f"{name} {q}": v.quantile(q) for name, v in values.items() for q in (1 - cap, cap)}
    asked |= {f"{name} least": v.min() for name, v in values.items()}
    found = _found(units.table, asked)
    ends = {k: (found[f"{k} {1 - cap}"] if found[f"{k} least"] < 0 else 0.0, found[f"{k} {cap}"]) for k in values}
    beyond = _found(units.table, {k: (~v.between(*ends[k])).sum() for k, v in values.items()})
    return {k: (*ends[k], int(beyond[k])) for k in values}


class Told(NamedTuple):
    """Levels; moments of each and of each variant, third central moment of the outcome, units without an outcome."""

    levels: list[Any]
    columns: Columns
    third: Floats
    missing: Floats


class Sums(NamedTuple):
    """Sums by cell, a variant in each combination of keys; per metric n, sums of x - shift and of their products."""

    frames: Mapping[str, pd.DataFrame]
    shifts: Mapping[str, float]
    variant: str

    def moments(self, metric: Metric, by: str | None, variants: Sequence[Any]) -> Told:
        """What one metric tells of each level of the key `by` (one, without) and each variant."""
        frame, names = self.frames[metric.name], metric.names
        place, levels = pd.factorize(frame[by], sort=True) if by else (np.zeros(len(frame), dtype=int), [""])
        arm = pd.Index(variants).get_indexer(frame[self.variant])
        cell, shape = place * len(variants) + arm, (len(levels), len(variants))
        known = (place >= 0) & (arm >= 0)

        def grid(name: str) -> Floats:
            value = frame[name].fillna(0).to_numpy(dtype=float)
            added: Floats = np.bincount(cell[known], value[known], shape[0] * shape[1]).astype(float)
            return added.reshape(shape)

        n, totals = grid(f"n {names[0]}"), np.stack([grid(f"Σ {name}") for name in names], axis=-1)
        products = np.empty((*totals.shape, len(names)))
        for (i, a), (j, b) in combinations_with_replacement(enumerate(names), 2):
            products[..., i, j] = products[..., j, i] = grid(f"{a} * {b}")
        with np.errstate(divide="ignore", invalid="ignore"):
            means = totals / n[..., None]
            left = products - totals[..., :, None] * means[..., None, :]
            flat = np.einsum("...ii->...i", left) <= 1e-12 * np.einsum("...ii->...i", products)
            left[flat[..., :, None] | flat[..., None, :]] = 0  # what rounding leaves of a constant
            covariance = left / (n - 1)[..., None, None]
            off = means[..., 0]
            cubed, unread = f"{names[0]} cubed", np.full(n.shape, np.nan)
            cubes = grid(cubed) / n if cubed in frame and metric.skewed else unread
            third = cubes - 3 * off * products[..., 0, 0] / n + 2 * off**3
        shifted = means + np.array([self.shifts[name] for name in names])
        return Told(list(levels), (n, shifted, covariance), third, grid(ROWS) - n)

    def cumulated(self, key: str) -> "Sums":
        """The same with each level of `key` holding all up to it, such as days since the start."""
        frames = {}
        for name, frame in self.frames.items():
            wide = frame.groupby([key, self.variant]).sum(numeric_only=True).unstack(self.variant, fill_value=0)  # noqa: PD010
            frames[name] = wide.cumsum().stack(self.variant, future_stack=True).reset_index()  # noqa: PD013
        return self._replace(frames=frames)


def history(table: Any, metric: Metric, *, unit: str | None) -> Moments:
    """Moments of a metric over all units of a past, to plan from: `value` and the `variance` of one unit.

    >>> from kpi_helpers.metrics import mean
    >>> past = pd.DataFrame({"id": [1, 2, 3, 4], "spent": [0.0, 10.0, 0.0, 30.0]})
    >>> history(past, mean("spent"), unit="id").value
    10.0
    """
    import ibis

    rows = as_table(table).mutate(**{" all": ibis.literal("all")})
    units = open_units(rows, unit=unit, variant=" all", metrics=[metric])
    metric = metric.of_rows() if units.repeated else metric
    n, means, covariance = (v[0, 0] for v in read_sums(units, [metric]).moments(metric, None, ["all"]).columns)
    if metric.kind == "adjusted":  # what its covariates leave
        left = covariance[0, 0] - solved(covariance[1:, 1:], covariance[1:, 0]) @ covariance[1:, 0]
        means, covariance = means[:1], np.array([[left]])
    kind = RatioMoments if metric.kind == "ratio" else Moments
    return kind(n=float(n), means=means, covariance=covariance)


def reached(table: Any, day: str) -> list[int]:
    """Units seen in the first 1, 2, ... days, one row each, to tell how long a plan takes; empty without such a column.

    >>> reached(pd.DataFrame({"at": pd.to_datetime(["2026-03-01", "2026-03-01", "2026-03-02"])}), "at")
    [2, 3]
    """
    rows = as_table(table)
    if day not in rows.columns:
        return []
    days = rows.group_by(rows[day].cast("date").name("day")).aggregate(n=rows.count()).order_by("day")
    return [int(n) for n in np.cumsum(days.to_pyarrow()["n"].to_pylist())]


def read_sums(units: Units, metrics: Sequence[Metric], keys: Sequence[str] = (), caps: Caps | None = None) -> Sums:
    """Everything that `metrics` need by variant and `keys`, in one scan; one more for a metric with half-empty rows.

    `caps` are the least and greatest value that an outcome counts with.
    """
    values = {name: _number(units.table, c) for m in metrics for name, c in zip(m.names, m.columns, strict=True)}
    sample = units.table.limit(SAMPLE).select(**values)  # a rough mean, so that squares keep their digits
    means = _found(sample, {name: sample[name].mean() for name in values})
    whole = {name: all(units.table[c.lstrip("-")].type().is_integer() for c in name.split(".")) for name in values}
    shifts = {  # of small whole numbers and of rates none is needed
        name: float((round(v) if abs(v) > 1000 else 0) if whole[name] else f"{v:.12g}")
        for name, v in ((k, v or 0.0) for k, v in means.items())
    } | {m.names[0]: 0.0 for m in metrics if m.kind == "rate"}
    values |= {c: values[c].clip(low, high) for c, (low, high, _n) in (caps or {}).items()}
    moved = {name: value - shifts[name] if shifts[name] else value for name, value in values.items()}
    plain = {name: units.table[name] if name in units.table.columns else value for name, value in values.items()}

    def scan(asked: Sequence[Metric], rows: Any = None, *, cubed: bool = False) -> pd.DataFrame:
        sums: dict[str, Any] = {}
        for metric in asked:
            names = metric.names
            sums |= {f"n {name}": plain[name].count(where=rows) for name in names}
            sums |= {f"Σ {name}": moved[name].sum(where=rows) for name in names}
            pairs = combinations_with_replacement(names, 2)
            sums |= {f"{a} * {b}": (moved[a] * moved[b]).sum(where=rows) for a, b in pairs}
            if metric.skewed and cubed:
                sums[f"{names[0]} cubed"] = (moved[names[0]] * moved[names[0]] * moved[names[0]]).sum(where=rows)
        by = list(dict.fromkeys([*keys, units.variant]))
        grouped = units.table.group_by(by).aggregate(**{ROWS: units.table.count()}, **sums).order_by(by)
        frame: pd.DataFrame = grouped.to_pyarrow().to_pandas()
        for key in by:  # a variant is named as it is written; who has none stays without
            known = frame[key].notna()
            frame[key] = frame[key].astype(object).where(known, None if key == units.variant else "–")
        return frame.assign(**{units.variant: frame[units.variant].map(str, na_action="ignore")})

    frames, shared = {}, scan(metrics)
    size = shared.groupby(units.variant)[ROWS].sum()
    uneven = bool(size.max() > UNEVEN * size.min())  # only then does skewness mislead, so only then is it read
    shared = scan(metrics, cubed=True) if uneven else shared
    for metric in metrics:
        names = metric.names
        halved = any((shared[f"n {name}"] != shared[f"n {names[0]}"]).any() for name in names)
        known = reduce(and_, (values[name].notnull() for name in names))
        frames[metric.name] = frame = scan([metric], known, cubed=uneven) if halved else shared
        wrong = [name for name in names if (~np.isfinite(frame[f"Σ {name}"]) & (frame[f"n {name}"] > 0)).any()]
        rule = "holds NaN or infinity: make such cells empty, so that they can be counted."
        require(not wrong, f"{', '.join(wrong)} {rule}")
        ones = (frame[f"{names[0]} * {names[0]}"].fillna(0) == frame[f"Σ {names[0]}"].fillna(0)).all()
        rule = f"{metric.name} is a rate, but {names[0]} holds other values than 0 and 1. Take mean() or ratio()."
        require(metric.kind != "rate" or bool(ones), rule)
    return Sums(frames, shifts, units.variant)


def of_experiment(table: "ir.Table", name: str) -> "ir.Table":
    """Rows of one experiment of a table that may hold several; without a `name` it must hold one only.

    >>> rows = as_table(pd.DataFrame({"experiment": ["new page", "new page", "old"], "n": [1, 2, 3]}))
    >>> of_experiment(rows, "new page").count().to_pyarrow().as_py()
    2
    """
    if "experiment" not in table.columns:
        return table
    known = sorted(filter(None, table.experiment.as_table().distinct().to_pyarrow()["experiment"].to_pylist()))
    require(bool(name) or len(known) < 2, f"The table holds {len(known)} experiments. Name one of {', '.join(known)}.")
    if not name:
        return table
    require_known(name, known, f"There is no experiment {name!r}.")
    return table.filter(table.experiment == name)
