from datetime import date, timedelta

import ibis.expr.types as ir
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from conftest import Engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from kpi_helpers import kpis
from kpi_helpers.contracts import CHANNEL_DAILY
from kpi_helpers.errors import KpiError
from kpi_helpers.kpis import UPSTREAM, catalogue, choose, compute
from kpi_helpers.sources import connect

MONDAY = date(2026, 1, 5)
COUNTS = ["impressions", "clicks", "sessions", "pageviews", "conversions", "orders", "leads"]
RATIOS = ["cpc", "conv_rate_session", "cpm"]
#: KPIs that are sums and ratios of the columns of channel_daily
DAILY = [k for k in catalogue() if k.tables == {"channel_daily"} and k.columns <= set(CHANNEL_DAILY.numbers)
         and k.kind != "stock"]  # fmt: skip


def one(table, key, segment="", at=None):
    """The one row of a KPI and segment, in the period that begins on `at`."""
    frame = table.to_frame()
    frame = frame[(frame["kpi"] == key) & (frame["segment"] == segment)]
    if at is not None:
        frame = frame[frame["period_at"] == at]
    assert len(frame) == 1
    return frame.iloc[0]


def history(n_days=45, channels=("Zalo OA", "Email", "Tìm kiếm"), begin=date(2026, 1, 1)):
    """A table with zeros and unknown cells; the last channel has no spend and no clicks at all."""
    rng = np.random.default_rng(7)
    rows = []
    for day in (begin + timedelta(days=i) for i in range(n_days)):
        for channel in channels:
            paid = channel != channels[-1]
            sessions, clicks = int(rng.integers(0, 900)), int(rng.integers(0, 50)) if paid else None
            lost = rng.random() < 0.1
            rows.append(
                {
                    "date": day, "channel": channel, "campaign": None,
                    "impressions": int(rng.integers(1000, 9000)), "clicks": clicks,
                    "sessions": None if lost else sessions, "pageviews": None if lost else 4 * sessions,
                    "conversions": int(rng.binomial(sessions, 0.03)), "orders": int(rng.binomial(sessions, 0.02)),
                    "leads": int(rng.integers(0, 9)),
                    "spend": round(float(rng.uniform(0, 5e6)), 2) if paid else None,
                    "revenue": round(float(rng.normal(9e6, 4e6)), 2),
                }
            )  # fmt: skip
    kinds = dict.fromkeys(COUNTS, "Int64") | {"spend": float, "revenue": float, "campaign": "string"}
    return pd.DataFrame(rows).astype(kinds)


def begins(dates, grain):
    """First day of the period of each date, by plain calendar arithmetic."""
    first = {
        "day": lambda d: d,
        "week": lambda d: d - timedelta(days=d.weekday()),
        "month": lambda d: d.replace(day=1),
        "total": lambda d: min(dates),
    }[grain]
    return [first(d) for d in dates]


def expected(rows, key, grain, by=None):
    """Σ numerator, Σ denominator and value by pandas alone: rows that know both parts, grouped."""
    k = catalogue()[key]

    def part(columns):
        signs = [-1 if c.startswith("-") else 1 for c in columns]
        parts = [sign * rows[c.lstrip("-")].astype(float) for sign, c in zip(signs, columns, strict=True)]
        return sum(parts[1:], parts[0])

    num = part(k.numerator)
    den = part(k.denominator) if k.denominator else pd.Series(1.0, index=rows.index)
    both = num.notna() & den.notna()
    frame = pd.DataFrame({"num": num.where(both), "den": den.where(both), "at": begins(rows["date"], grain)})
    frame["segment"] = rows[by] if by else ""
    sums = frame.groupby(["segment", "at"])[["num", "den"]].sum(min_count=1)
    den = sums["den"].where(sums["den"] != 0)
    return sums.assign(value=sums["num"] / den * k.scale if k.denominator else sums["num"])


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def place(request, tmp_path_factory):
    """Each engine, with the tables that many tests read and none changes."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    engine = Engine(request.param, tmp_path_factory.mktemp("place"), url)
    tables = {"company": history(), "segments": SEGMENTS, "email": EMAIL}
    yield {name: engine.source(rows) for name, rows in tables.items()}
    engine.close()


@pytest.fixture
def company(place):
    """A source that holds `history` on each engine."""
    return place["company"]


@pytest.fixture
def segments(place):
    """A source that holds the golden example of two segments on each engine."""
    return place["segments"]


@pytest.fixture
def email(place):
    """A source that holds the golden example of an email on each engine."""
    return place["email"]


# --- published numbers ----------------------------------------------------------------------------------


# Golden example G1 of the reference study, computed there with scipy and statsmodels; rates to 8 decimals.
EMAIL = pd.DataFrame(
    {
        "date": [MONDAY], "channel": ["Email"], "sent": [10_000], "hard_bounces": [120], "soft_bounces": [180],
        "unique_opens": [2425], "unique_clicks": [388], "clicks": [388], "unsubscribes": [29],
        "conversions": [47], "revenue": [14_100_000],
    }
)  # fmt: skip
G1 = {
    "sent": 10_000,
    "delivered": 9700,
    "delivery_rate": 0.97,
    "bounce_rate_email": 0.03,
    "open_rate": 0.25,
    "open_rate_sent": 0.2425,
    "ctr_email": 0.04,
    "ctor": 0.16,
    "unsub_rate": 0.00298969,
    "conv_rate_click": 0.12113402,
    "conversions": 47,
    "revenue": 14_100_000,
}


def test_email_kpis_match_the_golden_example(email):
    table = compute(email, list(G1), grain="day")

    assert dict(zip(table.kpi, table.value, strict=True)) == pytest.approx(G1, abs=5e-9)


def test_the_open_rate_has_the_golden_wilson_interval(email):
    row = one(compute(email, ["open_rate"], grain="day"), "open_rate")

    assert (row["value_low"], row["value_high"]) == pytest.approx((0.241483, 0.258715), abs=5e-7)


# Golden example G2: (sessions, conversions) of two segments in two weeks; totals printed to 8 decimals.
SEGMENTS = pd.DataFrame(
    {
        "date": [MONDAY, MONDAY, MONDAY + timedelta(7), MONDAY + timedelta(7)],
        "channel": ["1", "2", "1", "2"],
        "sessions": [1000, 200, 600, 900],
        "conversions": [50, 20, 33, 81],
    }
)


def test_a_rate_over_segments_is_the_ratio_of_sums_never_the_mean_of_rates(segments):
    whole = compute(segments, ["conv_rate_session"], grain="week")
    parts = compute(segments, ["conv_rate_session"], grain="week", by="channel")

    assert whole.value == pytest.approx((0.05833333, 0.076), abs=5e-9)
    rates = [one(parts, "conv_rate_session", segment, MONDAY)["value"] for segment in "12"]
    assert rates == pytest.approx([0.05, 0.1], rel=1e-12)
    assert np.mean(rates) == pytest.approx(0.075)  # the tempting wrong answer
    assert whole.value[0] != pytest.approx(0.075, rel=0.1)


def test_a_rate_over_time_is_the_ratio_of_sums_too(segments):
    table = compute(segments, ["conv_rate_session"], grain="month")

    assert table.value == pytest.approx(((50 + 20 + 33 + 81) / (1000 + 200 + 600 + 900),), rel=1e-12)


# --- independent implementations ---------------------------------------------------------------------------


@pytest.mark.parametrize("by", [None, "channel"])
@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_values_are_the_sums_that_pandas_computes(company, grain, by):
    rows = history()
    ids = ["revenue", *RATIOS]

    found = compute(company, ids, grain=grain, by=by).to_frame()

    for key, got in found.groupby("kpi"):
        want = expected(rows, key, grain, by)
        got = got.set_index(["segment", "period_at"]).sort_index()
        assert list(got.index) == list(want.index)
        for mine, theirs in {"numerator": "num", "value": "value"}.items():
            assert got[mine].to_numpy() == pytest.approx(want[theirs].to_numpy(), rel=1e-9, nan_ok=True)
        if catalogue()[key].denominator:
            assert got["denominator"].to_numpy() == pytest.approx(want["den"].to_numpy(), rel=1e-9, nan_ok=True)
        else:
            assert got["denominator"].isna().all()


def test_both_engines_give_the_same_results(duckdb_engine, postgres_engine):
    rows = history()
    ids = [k.id for k in DAILY if k.columns <= set(rows.columns)]
    assert len(ids) >= 15

    sources = (engine.source(rows) for engine in (duckdb_engine, postgres_engine))
    mine, other = (compute(source, ids, by="channel").to_frame() for source in sources)

    exact = ["kpi", "segment", "period_at", "numerator", "denominator", "n_days", "complete"]
    pd.testing.assert_frame_equal(mine[exact], other[exact], check_exact=True)
    pd.testing.assert_frame_equal(mine, other, rtol=1e-9, atol=0)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_of_a_share_is_the_wilson_interval_of_statsmodels(company, confidence):
    table = compute(company, ["conv_rate_session"], by="channel", grain="day", confidence=confidence)

    x, n = np.array(table.numerator), np.array(table.denominator)
    some = n > 0  # days without sessions have no rate
    low, high = proportion_confint(x[some], n[some], 1 - confidence, method="wilson")
    assert some.sum() > 100
    assert np.array(table.value_low)[some] == pytest.approx(low, rel=1e-9)
    assert np.array(table.value_high)[some] == pytest.approx(high, rel=1e-9)
    assert np.isnan(np.array(table.value_low)[~some]).all()


def test_the_interval_of_a_share_covers_when_days_differ_by_more_than_chance(duckdb_engine):
    # rates of 2% that wander by a tenth from day to day: Wilson alone covered about half of the weeks
    rng = np.random.default_rng(3)
    dates = pd.date_range("2020-01-06", periods=7 * 300)
    clicks = rng.binomial(50_000, 0.02 * np.exp(0.1 * rng.standard_normal(len(dates))))
    rows = pd.DataFrame({"date": dates.date, "channel": "A", "clicks": clicks, "impressions": 50_000})

    table = compute(duckdb_engine.source(rows), ["ctr_ad"])

    truth = 0.02 * np.exp(0.1**2 / 2)
    inside = (np.array(table.value_low) <= truth) & (truth <= np.array(table.value_high))
    assert 0.91 < inside.mean() < 0.99  # 95% of 300 weeks, three standard errors either way


def test_the_wilson_interval_holds_at_the_edges(engine):
    x, n = np.array([(0, 1), (1, 1), (0, 29), (29, 29), (3, 10), (1, 4_000_000_000)]).T
    rows = pd.DataFrame({"date": MONDAY, "channel": list("ABCDEF"), "clicks": x, "impressions": n})

    table = compute(engine.source(rows), ["ctr_ad"], by="channel", grain="day").to_frame()

    low, high = proportion_confint(x, n, 0.05, method="wilson")
    assert table["value_low"].to_numpy() == pytest.approx(low, rel=1e-7, abs=1e-15)
    assert table["value_high"].to_numpy() == pytest.approx(high, rel=1e-7, abs=1e-15)
    assert table["value_low"].ge(0).all() and table["value_high"].le(1).all()
    assert table["value"].between(table["value_low"], table["value_high"]).all()


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(("key", "x", "y"), [("roas", "revenue", "spend"), ("cpm", "spend", "impressions")])
def test_the_interval_of_a_cost_is_the_robust_interval_of_statsmodels(company, key, x, y, confidence):
    rows = history()[lambda t: t["channel"] == "Zalo OA"]

    table = compute(company, [key], by="channel", grain="month", confidence=confidence)

    for month in sorted(set(table.period_at)):
        days = rows[[d.replace(day=1) == month for d in rows["date"]]][[x, y]].astype(float)
        fit = sm.WLS(days[x], days[y], weights=1 / days[y]).fit(cov_type="HC1", use_t=True)  # slope Σx / Σy
        want = fit.conf_int(1 - confidence).loc[y] * catalogue()[key].scale
        row = one(table, key, "Zalo OA", month)
        assert (row["value_low"], row["value_high"]) == pytest.approx(tuple(want), rel=1e-9)


def test_days_are_the_sample_of_an_interval_not_their_channels(engine):
    rows = history().dropna(subset=["spend", "impressions"])
    days = rows.groupby("date", as_index=False)[["spend", "impressions"]].sum().assign(channel="All")

    table, summed = (compute(engine.source(each), ["cpm"], grain="month") for each in (rows, days))

    assert len(rows) == 2 * len(days) and sum(table.n_days) == len(days)
    assert table.value_low == pytest.approx(summed.value_low, rel=1e-9)
    assert table.value_high == pytest.approx(summed.value_high, rel=1e-9)


# --- properties ---------------------------------------------------------------------------------------------


CELLS = st.one_of(st.none(), st.integers(0, 500))
ROWS = st.lists(
    st.tuples(st.integers(0, 16), st.sampled_from("ABC"), CELLS, CELLS, CELLS, CELLS),
    min_size=4, max_size=30, unique_by=lambda row: row[:2],
)  # fmt: skip
SMALL = settings(
    max_examples=6, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
MEASURES = ["spend", "clicks", "sessions", "conversions"]
IDS = ["spend", "sessions", "cpc", "conv_rate_session"]


def drawn(rows):
    """Hypothesis' rows as a table."""
    table = pd.DataFrame(rows, columns=["day", "channel", *MEASURES]).astype(dict.fromkeys(MEASURES, "Int64"))
    return table.assign(date=[MONDAY + timedelta(days=d) for d in table.pop("day")], campaign="x")


def from_folder(tmp_path_factory, rows):
    """Connect to a folder that holds the rows; cheaper than a database for many small tables."""
    folder = tmp_path_factory.mktemp("drawn")
    rows.to_parquet(folder / "channel_daily.parquet", index=False)
    return connect(folder)


def same(one, other):
    """Whether two results are equal field by field, NaN like NaN."""
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), rtol=1e-9, atol=1e-12)


def split(rows):
    """The same table with every row told apart into two campaigns of unequal size."""
    first = rows.assign(campaign="y", **{m: rows[m] // 3 for m in MEASURES})
    second = rows.assign(**{m: rows[m] - rows[m] // 3 for m in MEASURES})
    return pd.concat([first, second], ignore_index=True)


def assert_channels_add_up(source, grain):
    """Sums of the channels are the whole, and the rate of the whole lies between theirs."""
    whole, parts = (compute(source, IDS, grain=grain, by=by).to_frame() for by in (None, "channel"))
    summed = parts.groupby(["kpi", "period_at"])[["numerator", "denominator"]].sum(min_count=1)
    whole = whole.set_index(["kpi", "period_at"]).loc[summed.index]
    assert whole["numerator"].to_numpy() == pytest.approx(summed["numerator"].to_numpy(), rel=1e-12, nan_ok=True)
    assert whole["denominator"].to_numpy() == pytest.approx(summed["denominator"].to_numpy(), rel=1e-12, nan_ok=True)
    additive = whole.index.get_level_values("kpi").isin(["spend", "sessions"])
    assert whole["value"][additive].equals(whole["numerator"][additive])
    rates = parts[parts["denominator"] > 0].groupby(["kpi", "period_at"])["value"].agg(["min", "max"])
    mixed = whole["value"].reindex(rates.index)[whole["numerator"].reindex(rates.index).notna()]
    wasted = parts[parts["denominator"] == 0].groupby(["kpi", "period_at"])["numerator"].sum()
    mixed = mixed.drop(wasted.index[wasted > 0], errors="ignore")  # numerators without a rate of their own
    assert (mixed >= rates["min"].reindex(mixed.index) * (1 - 1e-12)).all()
    assert (mixed <= rates["max"].reindex(mixed.index) * (1 + 1e-12)).all()


@SMALL
@given(rows=ROWS, grain=st.sampled_from(["day", "week", "month", "total"]))
def test_channels_add_up_to_the_whole(tmp_path_factory, rows, grain):
    assert_channels_add_up(from_folder(tmp_path_factory, drawn(rows)), grain)


@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_channels_add_up_to_the_whole_on_each_engine(company, grain):
    assert_channels_add_up(company, grain)


@SMALL
@given(rows=ROWS, seed=st.integers(0, 2**16), by=st.sampled_from([None, "channel"]))
def test_neither_the_order_of_rows_nor_campaigns_change_a_value(tmp_path_factory, rows, seed, by):
    table = drawn(rows)
    plain = compute(from_folder(tmp_path_factory, table), IDS, by=by)

    other = split(table).sample(frac=1, random_state=seed)

    same(compute(from_folder(tmp_path_factory, other), IDS, by=by), plain)


def test_neither_the_order_of_rows_nor_campaigns_change_a_value_on_each_engine(engine):
    rows = history(n_days=21).assign(campaign="x")[["date", "channel", "campaign", *MEASURES]]
    rows["spend"] = rows["spend"].round().astype("Int64")
    plain = compute(engine.source(rows), IDS, by="channel")

    same(compute(engine.source(rows.sample(frac=1, random_state=3)), IDS, by="channel"), plain)
    same(compute(engine.source(split(rows)), IDS, by="channel"), plain)


def test_denominators_of_zero_give_no_value(engine):
    ratios = [k.id for k in DAILY if k.denominator]
    zeros = {measure: [0] for measure in CHANNEL_DAILY.numbers}

    table = compute(engine.source(pd.DataFrame({"date": [MONDAY], "channel": ["A"], **zeros})), ratios, grain="day")

    assert table.kpi == tuple(ratios) and set(table.denominator) == {0}
    assert np.isnan([table.value, table.value_low, table.value_high]).all()


def test_money_spent_on_nothing_has_no_price(engine):
    rows = pd.DataFrame({"date": [MONDAY] * 2, "channel": ["A", "B"], "spend": [100, 50], "clicks": [0, 10]})

    source = engine.source(rows)

    parts = compute(source, ["cpc"], grain="day", by="channel")
    assert np.isnan(one(parts, "cpc", "A")["value"])
    assert one(parts, "cpc", "B")["value"] == 5
    assert one(compute(source, ["cpc"], grain="day"), "cpc")["value"] == 15  # and the whole counts the waste


def test_rows_that_do_not_know_both_parts_are_left_out_of_both(engine):
    rows = pd.DataFrame(
        {
            "date": [MONDAY] * 4,
            "channel": list("ABCD"),
            "conversions": pd.array([10, 40, None, None], "Int64"),
            "clicks": pd.array([100, None, 900, None], "Int64"),
        }
    )

    source = engine.source(rows)

    row = one(compute(source, ["conv_rate_click"], grain="day"), "conv_rate_click")
    assert (row["numerator"], row["denominator"], row["value"]) == (10, 100, 0.1)
    assert one(compute(source, ["conversions"], grain="day"), "conversions")["value"] == 50


def test_what_is_not_known_at_all_is_nothing_not_zero(engine):
    rows = pd.DataFrame({"date": [MONDAY], "channel": ["A"], "clicks": [5], "sessions": pd.array([None], "Int64")})

    table = compute(engine.source(rows), ["sessions", "clicks"], grain="day")

    assert np.isnan(one(table, "sessions")["value"]) and not one(table, "sessions")["complete"]
    assert one(table, "clicks")["value"] == 5


def test_sums_are_exact_where_floats_would_not_be(engine):
    rows = pd.DataFrame({"date": [MONDAY] * 10, "channel": list("ABCDEFGHIJ"), "revenue": [0.1] * 10})

    assert compute(engine.source(rows), ["revenue"], grain="day").value == (1.0,)


def test_a_sum_has_no_interval(company):
    table = compute(company, ["revenue", "clicks"])

    assert np.isnan(table.value_low + table.value_high + table.denominator).all()


def test_one_day_has_no_interval_of_a_cost(duckdb_engine):
    row = one(compute(duckdb_engine.source(history(n_days=1)), ["cpc"], grain="day"), "cpc")

    assert np.isfinite(row["value"]) and np.isnan([row["value_low"], row["value_high"]]).all()


def test_the_scale_multiplies_value_and_interval_but_not_the_sums(duckdb_engine):
    rows = pd.DataFrame(
        {"date": [MONDAY, MONDAY + timedelta(1)], "channel": "A", "spend": [4, 8], "impressions": [1000, 3000]}
    )

    row = one(compute(duckdb_engine.source(rows), ["cpm"], grain="total"), "cpm")

    assert (row["numerator"], row["denominator"], row["value"]) == (12, 4000, 3.0)
    assert (row["value_low"] + row["value_high"]) / 2 == pytest.approx(3.0, rel=1e-12)


# --- periods ------------------------------------------------------------------------------------------------


def sessions_on(*days, n=10):
    return pd.DataFrame({"date": [date.fromisoformat(d) for d in days], "channel": "A", "sessions": n})


def test_periods_that_lack_days_are_flagged(engine):
    days = [d for d in pd.date_range("2026-01-07", "2026-03-03").strftime("%Y-%m-%d") if d != "2026-01-20"]
    source = engine.source(sessions_on(*days))

    weeks = compute(source, ["sessions"], grain="week").to_frame().set_index("period_at")
    months = compute(source, ["sessions"], grain="month").to_frame().set_index("period_at")

    assert weeks.index[0] == date(2026, 1, 5)
    assert list(weeks.index[~weeks["complete"]]) == [date(2026, 1, 5), date(2026, 1, 19), date(2026, 3, 2)]
    assert weeks.loc[date(2026, 1, 5), "n_days"] == 5 and weeks.loc[date(2026, 1, 19), "n_days"] == 6
    assert dict(months["complete"]) == {date(2026, 1, 1): False, date(2026, 2, 1): True, date(2026, 3, 1): False}


def test_since_and_until_cut_periods_and_say_so(engine):
    source = engine.source(sessions_on(*pd.date_range("2026-01-05", "2026-02-01").strftime("%Y-%m-%d")))

    table = compute(source, ["sessions"], since=date(2026, 1, 7), until=date(2026, 1, 25))

    assert table.value == (50, 70, 70)
    assert table.complete == (False, True, True)
    assert table.period_at == (date(2026, 1, 5), date(2026, 1, 12), date(2026, 1, 19))


def test_weekly_rows_make_complete_weeks_and_whole_months_only(engine):
    mondays = pd.date_range("2026-01-12", "2026-06-29", freq="W-MON").strftime("%Y-%m-%d")
    source = engine.source(sessions_on(*mondays.drop("2026-06-08")), mapping={"channel_daily": {"period": "week"}})

    weeks, months = (compute(source, ["sessions"], grain=grain) for grain in ("week", "month"))

    assert all(weeks.complete) and set(weeks.value) == {10}
    assert months.value == (30, 40, 50, 40, 40, 40)  # March and June have five Mondays,
    assert months.complete == (False, True, True, True, True, False)  # January and June lack one


def test_a_series_has_no_holes_and_nothing_where_a_period_is_not_complete(duckdb_engine):
    before = pd.date_range("2026-01-05", "2026-01-18").strftime("%Y-%m-%d")
    after = pd.date_range("2026-02-02", "2026-02-11").strftime("%Y-%m-%d")

    series = compute(duckdb_engine.source(sessions_on(*before, *after)), ["sessions"]).series("sessions")

    assert [p.start_time.date() for p in series.index] == [date(2026, 1, 5) + timedelta(weeks=i) for i in range(6)]
    assert series.to_numpy() == pytest.approx([70, 70, np.nan, np.nan, 70, np.nan], nan_ok=True)


@pytest.mark.parametrize(("grain", "n", "first"), [("day", 59, 1), ("month", 2, 31)])
def test_a_series_is_of_its_grain(duckdb_engine, grain, n, first):
    days = pd.date_range("2026-01-01", "2026-02-28").strftime("%Y-%m-%d")

    series = compute(duckdb_engine.source(sessions_on(*days, n=1)), ["sessions"], grain=grain).series("sessions")

    assert len(series) == n and series.iloc[0] == first


def test_a_series_of_one_channel_is_its_own(duckdb_engine):
    rows = pd.concat([sessions_on("2026-01-05"), sessions_on("2026-01-05", "2026-01-06", n=3).assign(channel="B")])

    table = compute(duckdb_engine.source(rows), ["sessions"], by="channel", grain="day")

    assert list(table.series("sessions", "A")) == [10]
    assert list(table.series("sessions", "B")) == [3, 3]
    assert table.segments() == ["A", "B"]
    assert len(table.series("sessions", "nobody")) == 0


def test_rows_without_a_campaign_have_a_segment_of_their_own(engine):
    rows = pd.DataFrame({"date": [MONDAY] * 3, "channel": "A", "campaign": ["Tết", None, "Hè"], "clicks": [1, 2, 4]})

    table = compute(engine.source(rows), ["clicks"], by="campaign", grain="day")

    assert dict(zip(table.segment, table.value, strict=True)) == {"Tết": 1, "": 2, "Hè": 4}


def test_the_whole_table_is_read_in_one_query(company, monkeypatch):
    asked, original = [], ir.Table.to_pyarrow
    company.table("channel_daily")  # checked, once
    monkeypatch.setattr(ir.Table, "to_pyarrow", lambda self, **kwargs: asked.append(self) or original(self, **kwargs))

    compute(company, ["revenue", *RATIOS], by="channel")

    assert len(asked) == 1


# --- the catalogue ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", DAILY, ids=lambda k: k.id)
def test_every_kpi_of_the_catalogue_is_whole(k):
    for text in (k.name, k.meaning, k.pitfall):
        assert text.en.strip() and text.vi.strip() and text.en != text.vi
    assert k.unit in {"count", "money", "share", "ratio", "change", "part"}
    assert k.direction in {"up", "down", "none"}
    assert set(k.objectives) <= set(UPSTREAM)
    assert k.numerator and not k.numerator[0].startswith("-")
    assert k.additive == (not k.denominator)
    assert k.denominator or (k.unit in {"count", "money"} and k.scale == 1)
    assert k.unit != "share" or k.scale == 1


def test_no_two_kpis_share_a_name_or_a_formula():
    entries = [k for k in catalogue() if k.id != "revenue_channel"]  # article 4's name for revenue by channel

    for told in ({k.name.en for k in entries}, {k.name.vi for k in entries}):
        assert len(told) == len(entries)
    assert len({(k.table, k.numerator, k.denominator, k.less, k.scale, k.passing, k.change) for k in entries}) == len(
        entries
    )


def test_every_measure_of_the_contract_feeds_a_kpi():
    measures = {m for k in catalogue() for table, m in k.measures if table == "channel_daily"}

    assert measures == set(CHANNEL_DAILY.numbers) | set(CHANNEL_DAILY.measures)


def test_every_kpi_of_the_catalogue_computes(duckdb_engine):
    values = {measure: [2.0 ** (20 - i), 3.0] for i, measure in enumerate(CHANNEL_DAILY.numbers)}
    values["sent"] = [5e6, 3e6]
    rows = pd.DataFrame({"date": [MONDAY, MONDAY + timedelta(1)], "channel": "A", **values})

    table = compute(duckdb_engine.source(rows), [k.id for k in DAILY], grain="week")

    want = {key: expected(rows, key, "week")["value"].iloc[0] for key in (k.id for k in DAILY)}
    assert dict(zip(table.kpi, table.value, strict=True)) == pytest.approx(want, rel=1e-12)


# --- choosing -------------------------------------------------------------------------------------------------


def test_the_objective_is_served_by_what_the_data_can_feed(company):
    choice = choose(company, "sales", most=3)

    assert (choice.main, choice.served) == ("revenue", "sales")
    assert catalogue()[choice.main].plannable and choice.kpis[0] == choice.main
    assert all("sales" in catalogue()[k].objectives for k in choice.kpis[:3])
    # then a rate for each group of channels that the data feed and the three do not speak of
    assert choice.kpis[3:] == ("ctr_ad",)


def test_an_objective_that_the_data_cannot_feed_is_served_one_step_upstream(engine):
    rows = pd.DataFrame({"date": [MONDAY], "channel": ["Website"], "sessions": [9], "pageviews": [20]})

    choice = choose(engine.source(rows), "sales")

    assert (choice.objective, choice.served, choice.main) == ("sales", "traffic", "sessions")
    assert "further up the funnel" in choice.sentence("en") and "phễu" in choice.sentence("vi")


def test_columns_that_are_there_but_empty_feed_nothing(duckdb_engine):
    empty = pd.array([None], "Float64")
    rows = pd.DataFrame({"date": [MONDAY], "channel": ["A"], "revenue": empty, "orders": empty, "sessions": [9]})

    assert choose(duckdb_engine.source(rows), "sales").main == "sessions"


def test_data_that_feed_no_kpi_of_the_objective_are_told_so(engine):
    rows = pd.DataFrame({"date": [MONDAY], "channel": ["A"], "hard_bounces": [1]})

    with pytest.raises(KpiError, match=r"feed no KPI for awareness. Map more columns"):
        choose(engine.source(rows), "awareness")


# --- what is shown --------------------------------------------------------------------------------------------


def test_channel_names_are_escaped_in_html(duckdb_engine):
    rows = pd.DataFrame({"date": [MONDAY], "channel": ["<script>x</script>"], "clicks": [7]})

    shown = compute(duckdb_engine.source(rows), ["clicks"], by="channel").html()

    assert "&lt;script&gt;" in shown and "<script>" not in shown


def test_a_table_of_values_shows_them_in_both_languages(email):
    table = compute(email, ["open_rate", "revenue"], grain="day")

    assert all(told in table.html("en") for told in ("Open rate", "25.0%", "24.1", "25.9%"))
    assert all(told in table.html("vi") for told in ("Tỷ lệ mở", "25,0%", "24,1", "25,9%"))


def test_a_result_holds_values_only(email):
    table = compute(email, ["open_rate"], grain="day")

    kinds = {type(getattr(table, name)) for name in (*table.frame, *table.whole)}
    assert kinds <= {tuple, str, float, date}


# --- error texts ----------------------------------------------------------------------------------------------


REFUSED = [
    ({"ids": ["opne_rate"]}, "There is no KPI 'opne_rate'. Did you mean open_rate"),
    ({"ids": ["zzz"]}, "There is no KPI 'zzz'. Known are revenue, orders"),
    ({"ids": ["cpl"]}, "has no column leads, spend. Map it, or choose other KPIs"),
    ({"grain": "quarter"}, "grain='quarter' is not one of day, week, month, total"),
    ({"by": "chanel"}, "by='chanel' is no column of channel_daily; it has date, channel, sessions, conversions"),
    ({"since": date(2027, 1, 1)}, "has no row between 2027-01-01 and its end"),
    ({"since": MONDAY, "until": MONDAY - timedelta(1)}, "has no row between 2026-01-05 and 2026-01-04"),
    ({"confidence": 95}, r"confidence=95 is not in \(0, 1\). Write 0.95 for 95%"),
    ({"confidence": 95, "ids": ["sessions"]}, r"confidence=95 is not in \(0, 1\)"),
    ({"ids": []}, "KPI"),
    ({"by": "date"}, "by='date'"),
    ({"by": "sessions"}, "by='sessions'"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED)
def test_a_request_that_cannot_be_met_is_one_message(segments, options, told):
    with pytest.raises(KpiError, match=told):
        compute(segments, **({"ids": ["conv_rate_session"]} | options))


@pytest.mark.parametrize(("period", "grain"), [("week", "day"), ("month", "day"), ("month", "week")])
def test_a_grain_finer_than_the_data_is_refused(duckdb_engine, period, grain):
    source = duckdb_engine.source(
        SEGMENTS.assign(date=MONDAY.replace(day=1), campaign=list("abcd")),
        mapping={"channel_daily": {"period": period}},
    )

    with pytest.raises(KpiError, match=rf"grain='{grain}'.*cover a {period} each. Choose that or longer"):
        compute(source, ["sessions"], grain=grain)


@pytest.mark.parametrize("objective", ["sale", "", None])
def test_an_unknown_or_missing_objective_lists_those_that_there_are(duckdb_engine, objective):
    with pytest.raises(KpiError, match=f"objective={objective!r} is not one of sales, leads, traffic"):
        choose(duckdb_engine.source(SEGMENTS), objective)


@pytest.mark.parametrize(
    ("key", "meant"), [("ctr", "ctor"), ("Revenue", "revenue"), ("cost_per_conversion", "cost_per_conv")]
)
def test_a_misspelt_kpi_is_told_what_was_meant(key, meant):
    with pytest.raises(KpiError, match=f"There is no KPI '{key}'. Did you mean {meant}"):
        kpis.kpi(key)


def test_a_week_that_still_runs_on_the_last_day_is_not_read(tmp_path):
    text = "date,channel,orders\n2026-01-05,A,1\n2026-01-12,A,10\n2026-01-19,A,100\n"
    (tmp_path / "channel_daily.csv").write_text(text)
    weekly = connect(tmp_path, {"channel_daily": {"period": "week"}})

    def total(until):
        return compute(weekly, ["orders"], grain="total", until=until).value[0]

    assert [total(date(2026, 1, day)) for day in (17, 18, 24, 25)] == [1, 11, 11, 111]


def test_leads_are_the_main_kpi_of_the_objective_leads():
    chosen = choose(connect("data/demo"), "leads")

    assert chosen.main == chosen.kpis[0] == "leads"


def test_explain_change_is_found_beside_the_kpis():
    assert kpis.explain_change({"a": (1, 2)}, {"a": (1, 2)}).total == 0
