"""The additive hazard against worlds whose truth is known, and its maximum against a search of another kind."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from ad_worlds import CHANNELS, START, recurrent, simulate
from scipy.optimize import minimize

from kpi_helpers.additive import DECAYS, fit_additive
from kpi_helpers.credits import attribute
from kpi_helpers.errors import KpiError
from kpi_helpers.journeys import read_journeys
from kpi_helpers.paths import BASELINE

PEOPLE = 40_000
world = cache(simulate)


@cache
def told(scenario, seed):
    """Share errors (total variation) of all models, and what the hazard says of the baseline."""
    w = world(scenario, seed=seed)
    found = attribute(read_journeys(w.touchpoints, w.conversions, people=PEOPLE), confidence=None)
    rows = found.frame[(found.frame["model"] == "hazard")].set_index("channel")
    return found.shares.sub(w.incremental / w.incremental.sum(), axis=0).abs().sum() / 2, rows


def fitted(w, groups=1, people=PEOPLE, **how):
    read = read_journeys(w.touchpoints, w.conversions, **how)
    seen, alone = read.exposure(groups), {}
    if people:
        alone = {"person_days": people * read.n_days, "untouched": read.conversions - seen.touched[0]}
        alone["untouched_value"] = read.value - seen.touched[1]
    return fit_additive(seen, len(read.channels), **{"person_days": None, "groups": groups} | alone), read


class TestTruth:
    """Targets of the issue: a share error of .06 at most where nothing confounds; reference §6 has .02 to .05."""

    @pytest.mark.parametrize(("scenario", "seed"), [("nobase", 1), ("base", 1), ("base", 2)])
    def test_the_hazard_finds_the_shares(self, scenario, seed):
        error, rows = told(scenario, seed)

        assert error["hazard"] <= 0.06
        assert error["hazard"] < 0.4 * error.drop("hazard").min()
        assert rows.loc[["brand", "coupon"], "share"].sum() < 0.03  # which do nothing

    @pytest.mark.parametrize("seed", [1, 2])
    def test_models_rank_as_in_the_reference(self, seed):
        error, _ = told("base", seed)

        assert error.idxmin() == "hazard" and error.idxmax() == "markov"
        ranked = ["last", "time_decay", "position", "linear", "shapley", "markov"]
        assert error[ranked].is_monotonic_increasing

    @pytest.mark.parametrize("seed", [1, 2])
    def test_the_baseline_is_within_its_error(self, seed):
        w = world("base", seed=seed)
        found, read = fitted(w, groups=25)
        whole, *left = found.credit[:, -1, 0]

        left = np.array(left) * 25 / 24
        error = np.sqrt(24 / 25 * ((left - left.mean()) ** 2).sum())
        # one decay for all channels, whose decays are 2 to 5 days, moves the level, and more than it moves the shares
        assert abs(whole - w.baseline) < 2 * error + 0.1 * w.baseline
        assert found.credit[0].sum(axis=0) == pytest.approx([read.conversions, read.value])
        assert found.decay_days in (2, 3, 4, 5) and found.days == "all"

    def test_without_a_baseline_none_is_found(self):
        _, rows = told("nobase", 1)

        assert rows.loc[BASELINE, "conversions"] < 0.01 * rows["conversions"].sum()


def panel(w, decay, people, lookback, days):
    """Stock of each channel on each day of each person, and on orders without what is too old, a touch at a time."""
    names, stock, sold = sorted(CHANNELS), np.zeros((people, days, len(CHANNELS))), np.zeros((people, len(CHANNELS)))
    bought = dict(zip(w.conversions["customer_id"], w.conversions["ordered_at"], strict=True))
    for person, at, channel in zip(*(w.touchpoints[c] for c in ("customer_id", "touched_at", "channel")), strict=True):
        on, k = (at - START).days, names.index(channel)
        for day in range(on, min(on + lookback, days)):  # beyond an order, too: people buy again
            stock[person, day, k] += np.exp(-(day - on) / decay)
        if person in bought and bought[person] - at < pd.Timedelta(days=lookback):
            sold[person, k] += np.exp(-((bought[person] - START).days - on) / decay)
    return stock.reshape(-1, len(names)), sold[list(bought)]


def climbed(stock, sold):
    """Log-likelihood and credit at its maximum over rates of 0 and more, by sequential quadratic programming."""
    n = len(sold)
    scale = np.append(len(stock), stock.sum(axis=0)) / n
    sold = np.column_stack([np.ones(n), sold]) / scale

    def loss(b):
        hazard = sold @ b
        return b.sum() - np.log(hazard).mean(), 1 - (sold / hazard[:, None]).mean(axis=0)

    k = len(scale)
    how = {"method": "SLSQP", "jac": True, "bounds": [(1e-9, None)] * k, "options": {"maxiter": 500, "ftol": 1e-13}}
    found = minimize(loss, np.full(k, 1 / k), **how)
    return -found.fun * n, (sold * found.x / (sold @ found.x)[:, None]).sum(axis=0)


class TestMaximum:
    @pytest.mark.parametrize("lookback", [30, 6])
    def test_credit_and_decay_are_those_of_a_panel_of_person_days(self, lookback):
        w = world("base", people=2500, seed=3)
        found, read = fitted(w, people=2500, lookback_days=lookback)

        fits = {d: climbed(*panel(w, d, 2500, lookback, read.n_days)) for d in DECAYS}
        best = max(fits, key=lambda d: fits[d][0])
        assert found.decay_days == best and found.days == "all"
        assert found.credit[0, :, 0] == pytest.approx(np.roll(fits[best][1], -1), abs=0.05)
        assert found.credit[0].sum(axis=0) == pytest.approx([read.conversions, read.value])

    def test_groups_only_move_what_is_left_out(self):
        w = world("base", people=2500, seed=3)
        whole, parts = (fitted(w, people=2500, groups=g)[0] for g in (1, 5))

        assert parts.credit.shape == (6, 8, 2)
        assert parts.credit[0] == pytest.approx(whole.credit[0], abs=1e-6)
        touched = whole.credit[0].sum(axis=0) * 4
        assert parts.credit[1:].sum(axis=(0, 1)) == pytest.approx(touched, rel=0.1)


def with_clicks(w, channel, seed=5):
    """Every order has a click of the `channel` minutes before, and people click on it at other times without effect."""
    rng = np.random.default_rng(seed)
    clicks = pd.DataFrame({"customer_id": w.conversions["customer_id"], "channel": channel(rng, len(w.conversions))})
    clicks["touched_at"] = w.conversions["ordered_at"] - pd.Timedelta(minutes=5)
    n = len(w.touchpoints) // 10
    idle = pd.DataFrame({"customer_id": rng.integers(0, PEOPLE, n), "channel": channel(rng, n)})
    idle["touched_at"] = START + pd.to_timedelta(rng.integers(0, 30 * 86_400, n), unit="s")
    return w._replace(touchpoints=pd.concat([w.touchpoints, clicks, idle]))


class TestWayIn:
    """Nobody buys without coming to the shop somehow: the click just before an order is no cause."""

    def test_a_channel_that_is_only_the_way_in_is_credited_with_about_nothing(self):
        w = with_clicks(world("base", seed=1), lambda rng, n: ["portal"] * n)
        found, read = fitted(w)
        share = found.credit[0, : len(read.channels), 0] / found.credit[0, :-1, 0].sum()

        assert found.days == "later" and found.decay_days in (3, 4, 5)
        assert found.credit[0, :-1, 0].sum() == pytest.approx(w.incremental.sum(), rel=0.12)
        assert share[read.channels.index("portal")] < 0.03
        truth = (w.incremental / w.incremental.sum()).reindex(read.channels, fill_value=0.0)
        assert np.abs(share - truth).sum() / 2 < 0.1
        last = attribute(read, ("last",), confidence=None).shares["last"]
        assert last["portal"] == 1.0  # what last touch says of the same world

    def test_so_it_is_with_clicks_of_any_channel(self):
        w = with_clicks(world("base", seed=2), lambda rng, n: rng.choice(list(CHANNELS), n))
        found, read = fitted(w)
        share = found.credit[0, :-1, 0] / found.credit[0, :-1, 0].sum()

        assert found.days == "later" and found.decay_days in (3, 4, 5)
        assert found.credit[0, :-1, 0].sum() == pytest.approx(w.incremental.sum(), rel=0.12)
        assert np.abs(share - (w.incremental / w.incremental.sum())[list(read.channels)]).sum() / 2 < 0.15
        assert found.credit[0].sum(axis=0) == pytest.approx([read.conversions, read.value])


PLAIN = {"A": (0.06, 0.004, 3, 0), "B": (0.04, 0.002, 3, 0), "C": (0.04, 0, 3, 0)}
LATE = {"A": (0.06, 0.004, 3, 1), "B": (0.04, 0.002, 3, 1), "C": (0.04, 0, 3, 0)}


class TestRecurrent:
    """People buy again: a touch goes on working after an order. Rates are those of the world, not of its own form."""

    @pytest.mark.parametrize(
        ("channels", "how", "days", "over"),
        [
            (PLAIN, {}, "all", 0.08),
            (PLAIN, {"repeats": 0.3}, "all", 0.08),
            (PLAIN, {"repeats": 1.0}, "all", 0.08),
            (PLAIN, {"way_in": 1.0}, "later", 0.08),
            (PLAIN, {"way_in": 0.05}, "later", 0.08),
            (LATE, {}, "apart", 0.08),
            (PLAIN, {"by_day": True}, "apart", 0.1),
        ],
    )
    def test_shares_and_baseline_are_those_planted(self, channels, how, days, over):
        w = recurrent(channels, **how)
        found, read = fitted(w)
        credit = pd.Series(found.credit[0, :-1, 0], read.channels)
        truth = w.incremental.reindex(read.channels, fill_value=0.0)

        assert found.days == days and found.learned and found.decay_days == 3
        assert (credit / credit.sum() - truth / truth.sum()).abs().sum() / 2 < 0.06
        assert credit.sum() == pytest.approx(truth.sum(), rel=over)
        assert found.credit[0, -1, 0] == pytest.approx(w.baseline, rel=0.1)
        assert found.credit[0].sum(axis=0) == pytest.approx([read.conversions, read.value])

    def test_shares_need_nobody_untouched(self):
        w = recurrent(PLAIN, way_in=1.0)
        found, read = fitted(w, people=None)
        share = pd.Series(found.credit[0, :-1, 0] / found.credit[0, :-1, 0].sum(), read.channels)

        assert found.days == "later" and found.decay_days in (2, 3, 4)
        assert (share - w.incremental / w.incremental.sum()).abs().sum() / 2 < 0.06
        assert share[["Direct", "Search"]].sum() < 0.01

    def test_effects_over_within_a_day_are_told_from_no_effect_by_nothing(self):
        w = recurrent({"A": (0.06, 0.2, 0.05, 0), "B": (0.04, 0.1, 0.05, 0), "C": (0.04, 0, 0.05, 0)})

        assert not fitted(w)[0].learned
        told = attribute(read_journeys(w.touchpoints, w.conversions), ("last", "hazard"), confidence=None)
        assert told.models == ["last"] and told.left_out == ("hazard",)
        assert "from a day after a touch on people convert no more often" in told.html("en")
        with pytest.raises(KpiError, match="cannot be computed, because from a day after a touch"):
            attribute(read_journeys(w.touchpoints, w.conversions), ("hazard",))


class TestWithoutPeople:
    def test_there_are_only_shares_of_the_conversions_that_had_a_touch(self):
        w = world("base", seed=1)
        extra = pd.DataFrame({"customer_id": [-1, -2], "ordered_at": START, "revenue": 50.0})
        read = read_journeys(w.touchpoints, pd.concat([w.conversions, extra]))
        rows = attribute(read, ("hazard",), confidence=None)

        frame = rows.frame.set_index("channel")[["conversions", "value"]]
        assert not rows.baseline_known
        assert frame.drop(BASELINE).sum().to_numpy() == pytest.approx(read.touched)
        assert frame.loc[BASELINE].tolist() == pytest.approx([read.untouched, read.untouched_value])
        assert read.untouched >= 2

    def test_shares_are_still_near_the_truth_without_a_baseline(self):
        w = world("nobase", seed=1)
        found, _ = fitted(w, people=None)
        share = found.credit[0, :-1, 0] / found.credit[0, :-1, 0].sum()

        assert np.abs(share - (w.incremental / w.incremental.sum())[sorted(CHANNELS)]).sum() / 2 < 0.15
