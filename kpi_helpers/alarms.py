"""KPIs of a source watched day by day: which days are out of their ordinary, and why; false alarms controlled."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import views
from kpi_helpers.calendars import TET_PARTS, tet
from kpi_helpers.catalogue import Kpi, OfKpis, kpi
from kpi_helpers.changes import Change, explain_change
from kpi_helpers.errors import KpiError, require
from kpi_helpers.monitors import LEAST, detect
from kpi_helpers.readings import Ask, read
from kpi_helpers.result import LANGUAGES, Framed, json_value, labelled_pill, measure, number, percent, say
from kpi_helpers.result import day as written_day
from kpi_helpers.scoring import dimensions, feeds, scorecard
from kpi_helpers.sources import Source
from kpi_helpers.suspects import MOST, WEEKS, Suspects, find_segments, mix_shifts

#: tone of the pill of each kind; days after a shift of level or mix in which the same is not told again
TONES = {"gap": "none", "spike": "watch", "dip": "watch", "shift": "bad", "mix": "calm"}
COOL = 7 * WEEKS
SMALL = 0.05  # a mix that shifted by less is no news, however certain; Cohen (1988) calls w = 0.1 a small effect


class Watched(OfKpis):
    """Each KPI on each day: its `value`, and with an alarm its `kind` and what was `expected`, from `low` to `high`.

    `kind` is "gap", "spike", "dip", "shift", "mix" (shares of segments shifted, the total did not) or empty. `why`
    explains each alarm: rows ``kpi, date, en, vi``. `young` KPIs are known for too few days to be judged.
    """

    columns = ("kpi", "date", "value", "expected", "low", "high", "kind")
    aside: ClassVar = ("why", "currency", "young")
    ways: ClassVar = {**OfKpis.ways, "mark": lambda kind, words: labelled_pill(TONES[kind], words)}

    def to_json(self) -> dict[str, Any]:
        why = self.why.assign(date=self.why["date"].map(json_value))
        return {**super().to_json(), "why": why.to_dict("records")}

    @property
    def alarms(self) -> pd.DataFrame:
        """The alarms with their explanations, the latest first."""
        found = self.frame[self.frame["kind"] != ""].merge(self.why, on=["kpi", "date"])
        return found.sort_values("date", ascending=False, kind="stable", ignore_index=True)

    def sentence(self, language: str = "en") -> str:
        rate, found = number(self.rate * self.days / 7, language, decimals=2), self.alarms
        told = {"n": self.frame["kpi"].nunique(), "days": self.days, "rate": rate, "k": len(found)}
        told["why"] = found[language][0] if len(found) else ""
        sentence = say("alarm.sentence" if len(found) else "alarm.none", language, **told)
        names = ", ".join(kpi(key).name[language] for key in self.young)
        return f"{sentence} {say('alarm.young', language, names=names, n=LEAST)}" if names else sentence

    def line(self, key: str) -> tuple[str, list[tuple[float, float]]]:
        """Path of a KPI's days in a box of 136 by 36, broken at gaps, and the places of its alarms."""
        own = self.frame[self.frame["kpi"] == key].reset_index(drop=True)
        v, x = own["value"].to_numpy(float), np.linspace(3, 133, len(own))
        room = np.nanmax(v) - np.nanmin(v) if np.isfinite(v).any() else 0.0
        y = np.nan_to_num(33 - 30 * (v - np.nanmin(v)) / room, nan=33.0) if room else np.full(len(v), 18.0)
        known = np.isfinite(v)
        moves = ["ML"[int(i > 0 and known[i - 1])] for i in range(len(v))]
        path = "".join(f"{moves[i]}{x[i]:.1f} {y[i]:.1f}" for i in np.flatnonzero(known))
        return path, [(float(x[i]), float(y[i])) for i in np.flatnonzero(own["kind"] != "")]


def watch(
    data: Source, ids: Sequence[str], *, as_of: date, days: int = 28, false_alarms_per_week: float = 0.02
) -> Watched:
    """Watch KPIs of a source on each of the last `days` up to `as_of`, each judged by its own past.

    Alarms are those of `monitors.detect` and, where the shares of the first dimension's segments shift, of
    `suspects.mix_shifts`. Over all KPIs of a day they are controlled by Benjamini & Hochberg (1995): of n tests, k
    alarms stand only if all k are alarms at k/n of the rate too (rounded down to halves), so that on days on which
    nothing happened all KPIs *together* raise at most about `false_alarms_per_week`. Raises a `KpiError` if a KPI is
    unknown, not a figure of days or not fed by the source, or the rows are coarser than days.
    """
    ks = [kpi(key) for key in dict.fromkeys(ids)]
    require(len(ks) > 0 and days >= 1, f"ids={list(ids)!r}, days={days}: watch at least one KPI on one day.")
    odd, lacking = [k.id for k in ks if k.change or k.paired or k.kind == "quantile"], feeds(data)
    require(not odd, f"{', '.join(odd)}: no figure of single days. Watch the sums behind it.")
    for k in ks:
        require(not lacking[k.id], f"{data.name} cannot feed {k.id}: it lacks {', '.join(lacking[k.id])}.")
    data.require_grain("day")
    values, rate = _values(data, ks, as_of), false_alarms_per_week
    end, since = values.index[-1], values.index[-min(days, len(values))]
    parts = _parts(data, ks, end - pd.Timedelta(days=days + MOST + 2 * COOL), end)
    mixes = {}
    for key, part in parts.items():
        by, what = part.columns[1], "den" if kpi(key).denominator else "num"
        shares = part.pivot_table(index="date", columns=by, values=what, aggfunc="sum")
        shares = shares.reindex(pd.date_range(shares.index.min(), end))
        judged = mix_shifts(shares).rename(columns={"expected": "usual", "observed": "now"})
        mixes[key] = judged.assign(date=shares.index[judged["position"]], kind="mix")
    judged = values.loc[:, [int((v.notna() & ~_around_tet(v.index)).sum()) > LEAST for _, v in values.items()]]
    found = _controlled(judged, mixes, rate).query("date >= @since")
    shown = values[since:].rename_axis("date").reset_index().melt("date", var_name="kpi", value_name="value")
    frame = shown.merge(found, on=["kpi", "date"], how="left").fillna({"kind": ""})
    frame = frame.assign(date=frame["date"].dt.date)[list(Watched.columns)]
    rows = [_why(kpi(row.kpi), row, values.loc[row.date, row.kpi], parts.get(row.kpi), data.currency())
            for row in found.itertuples()]  # fmt: skip
    why = pd.DataFrame(rows, columns=["kpi", "date", *LANGUAGES])
    young = [k.id for k in ks if k.id not in judged]
    whole = {"why": why, "days": days, "rate": rate, "currency": data.currency(), "young": young}
    return Watched(frame=frame, whole=whole)


def _values(data: Source, ks: Sequence[Kpi], as_of: date) -> pd.DataFrame:
    """Values (days, KPIs) without holes in the calendar, up to the last day that any of them knows."""
    told = scorecard(data, [k.id for k in ks], grain="day", end=as_of).dropna(subset="period")
    require(len(told) > 0, f"{data.name} has no day up to {as_of} for {', '.join(k.id for k in ks)}.")
    values = told.pivot_table(index="period", columns="kpi", values="value", dropna=False)
    values = values.reindex(pd.date_range(values.index.min(), values.index.max()))[[k.id for k in ks]]
    for k in ks:
        if k.additive and not any(map(views.is_daily, k.tables)):  # no row: nothing happened
            values[k.id] = values[k.id].fillna(0.0).where(values.index >= values[k.id].first_valid_index())
    return values


def _parts(data: Source, ks: Sequence[Kpi], first: pd.Timestamp, last: pd.Timestamp) -> dict[str, pd.DataFrame]:
    """Sums (`num`, `den`) by day and segment of KPIs that are sums or ratios of one table, each table read once."""
    asks: dict[str, list[Kpi]] = {}
    for k in ks:
        if k.kind in ("additive", "ratio", "mean") and len(k.tables) == 1 and not (k.less or k.passing):
            asks.setdefault(next(iter(k.tables)), []).append(k)
    found = dict[str, pd.DataFrame]()
    for table, mine in asks.items():
        if by := dimensions(data, table):
            rows = views.rows(data, table, by, "day", last.date())
            asked = [Ask(k.id, k.numerator, k.denominator) for k in mine]
            sums = read(rows, asked, by=by, grain="day", start=first.date(), end=last.date())
            for k in mine:
                den = sums[f"{k.id}__den"] / k.scale if k.denominator else 1.0
                held = sums[["date", *by]].assign(num=sums[f"{k.id}__num"], den=den).dropna()
                used = [name for name in by if len(held[name].unique()) > 1]
                found |= {k.id: held[["date", *used, "num", "den"]]} if used else {}
    return found


def _around_tet(days: Any) -> Any:
    """Days of the rush before Tết, of its pause and the recovery, which the calendar explains."""
    first, last = (TET_PARTS[part][i] for i, part in enumerate(("tet_rush", "tet_recovery")))
    years = [pd.Timestamp(tet(year)) for year in sorted({*days.year, *(days.year + 1)})]
    return np.any(
        [(days >= t + pd.Timedelta(first, "D")) & (days <= t + pd.Timedelta(last, "D")) for t in years], axis=0
    )


def _controlled(values: pd.DataFrame, mixes: Mapping[str, pd.DataFrame], rate: float) -> pd.DataFrame:
    """Alarms that stand after control over all KPIs of a day, at most one a KPI."""
    heads = ["kpi", "date", "kind", "expected", "low", "high", "segment", "usual", "now"]
    n, rows = len(values.columns) + len(mixes), []
    if n == 0:
        return pd.DataFrame(columns=heads).astype({"date": values.index.dtype})
    for step in range(1 + math.ceil(math.log2(n))):
        for key, v in values.items():
            # views such as orders within 30 days of a message end before the data do: that is no gap
            until = v.last_valid_index() if kpi(str(key)).tables & set(views.VIEWS) else v.index[-1]
            known = v[v.first_valid_index() or until : until]
            own = detect(known, false_alarms_per_week=rate / 2**step, holidays=_around_tet(known.index))
            if not kpi(str(key)).additive:  # a rate that falls far is no failure of tracking
                own["kind"] = own["kind"].where(own["observed"].isna() | (own["kind"] != "gap"), "dip")
            rows.append(own.assign(kpi=key, step=step, date=known.index[own["position"]]))
        for key, judged in mixes.items():
            far = (judged["now"] - judged["usual"]).abs() >= SMALL * judged["usual"] ** 0.5
            own = judged[(judged["p"] < rate / 7 / 2**step) & far]
            rows.append(own.assign(kpi=key, step=step))
    found = pd.concat(rows, ignore_index=True).query("kind != ''")
    enough = found.groupby(["date", "step"])["kpi"].transform("size") * 2.0 ** found["step"] >= n
    found = found[enough].assign(mixed=found["kind"] == "mix").sort_values(["date", "kpi", "mixed", "step"])
    last, stands = dict[tuple[str, str], pd.Timestamp](), []
    for row in (found := found.drop_duplicates(["date", "kpi"])).itertuples():
        lasting = row.kind in ("shift", "mix")
        stands.append(not lasting or (row.date - last.get((row.kpi, row.kind), pd.Timestamp(0))).days >= COOL)
        if lasting and stands[-1]:
            last[row.kpi, row.kind] = row.date
    return found[stands].reindex(columns=heads).astype({"kpi": str, "date": values.index.dtype, "kind": str})


def _why(k: Kpi, row: Any, value: float, part: pd.DataFrame | None, currency: str) -> tuple[Any, ...]:
    """Explanation of an alarm in both languages: mix and rate of a ratio, and the segments that moved otherwise."""
    found: list[Framed] = []
    if part is not None and row.kind not in ("gap", "mix"):
        span, by = (7 if row.kind == "shift" else 1), [c for c in part if c not in ("date", "num", "den")]
        ago = (row.date - part["date"]).dt.days  # a shift is told by its last week
        times = part[(ago >= span) & (ago <= 7 * WEEKS + span - 1) & (ago % 7 < span)], part[(ago >= 0) & (ago < span)]
        with suppress(KpiError):  # such as sums below 0 after returns: then there is no cause to tell
            if k.denominator:
                change = explain_change(*(_by_day(t, by[0]) for t in times), unit=k.unit)
                words = {"label": k.name, "by": by[0], "currency": currency}
                found += [Change(frame=change.frame, whole={**change.whole, **words})] if change.changed else []
            own = find_segments(*times, by, numerator="num", denominator="den" if k.denominator else "")
            whole = {**own.whole, "unit": k.unit, "currency": currency}
            found += [Suspects(frame=own.frame, whole=whole)] if len(own.frame) > 1 else []
    texts = []
    for language in LANGUAGES:
        told = {"name": k.name[language], "on": written_day(row.date, language), "segment": row.segment}
        ends = {"value": value, "low": row.low, "high": row.high}
        told |= {at: measure(v, k.unit, language, currency) for at, v in ends.items()}
        told |= {at: percent(getattr(row, at), language) for at in ("usual", "now")}
        kind = row.kind if row.kind == "gap" else ("mix_of" if k.denominator else "mix") if row.kind == "mix" else "off"
        texts.append(" ".join([say(f"alarm.{kind}", language, **told), *(f.sentence(language) for f in found)]))
    return (k.id, row.date.date(), *texts)


def _by_day(part: pd.DataFrame, by: str) -> dict[str, Any]:
    """Numerators and denominators of each segment by day, as `changes.explain_change` takes them."""
    x, y = (part.pivot_table(index="date", columns=by, values=c, aggfunc="sum", fill_value=0.0) for c in ("num", "den"))
    return {str(name): (x[name].tolist(), y[name].tolist()) for name in x}
