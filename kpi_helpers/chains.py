"""Markov chains of channels, solved exactly: what is lost when a channel is taken away."""

from collections.abc import Iterable
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import plots
from kpi_helpers.errors import require, require_known
from kpi_helpers.paths import BEGUN, CONVERTED, LEFT, Journeys, Steps
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats

FEW_STATES = 400  # up to here one inverse answers everything


class Chain:
    """Transient states, moves between them, and what each ends with: P(conversion) and expected value (states, 2)."""

    def __init__(self, steps: Steps) -> None:
        from scipy.sparse import csr_array

        self.steps, self.base = steps, steps.n_channels + 1
        move = steps.then > 0
        self.states, row = np.unique(steps.state, return_inverse=True)
        begun, size = steps.then == BEGUN, len(self.states)
        whole = np.bincount(row[~begun], steps.n[~begun], size)
        self.start = np.bincount(row[begun], steps.n[begun], size) / steps.n[begun].sum()
        share = steps.n[move] / whole[row[move]]
        to = steps.state[move] % self.base ** (steps.order - 1) * self.base + steps.then[move]
        self.moves = csr_array((share, (np.searchsorted(self.states, to), row[move])), shape=(size, size))  # to, from
        won = steps.then == CONVERTED
        self.ends = np.column_stack([np.bincount(row[won], c[won], size) / whole for c in (steps.n, steps.value)])

    @cached_property
    def visits(self) -> Floats:
        """Expected visits of each state in one journey."""
        return self.start @ self._inverse if self.small else self._solved(np.ones(len(self.states), bool))

    @cached_property
    def reached(self) -> Floats:
        """Chance of a conversion, and expected value, of one journey."""
        return self.visits @ self.ends

    @property
    def small(self) -> bool:
        """Whether one inverse answers everything."""
        return len(self.states) <= FEW_STATES

    @cached_property
    def _inverse(self) -> Floats:
        return np.linalg.inv(np.eye(len(self.states)) - self.moves.toarray().T)

    def lost(self, channels: Iterable[int]) -> Floats:
        """Shares of conversions and of value that are lost without the channels: Schur complement, or masked solve."""
        hit, rest = np.zeros(len(self.states), bool), self.states.copy()
        for _digit in range(self.steps.order):
            hit |= np.isin(rest % self.base, list(channels))
            rest //= self.base
        if self.small:
            inverse = self._inverse
            drop = self.visits[hit] @ np.linalg.solve(inverse[np.ix_(hit, hit)], inverse[hit] @ self.ends)
        else:
            drop = self.reached - self._solved(~hit) @ self.ends
        with np.errstate(invalid="ignore"):
            return drop / self.reached

    def effects(self) -> Floats:
        """Shares of conversions and of value lost without each channel by itself (2, channels)."""
        found = np.zeros((2, self.base - 1))
        if self.steps.order > 1 or not self.small:
            return np.array([self.lost([channel]) for channel in range(1, self.base)]).T
        drop = self.visits[:, None] * (self._inverse @ self.ends) / np.diag(self._inverse)[:, None]
        with np.errstate(invalid="ignore"):
            found[:, self.states - 1] = (drop / self.reached).T
        return np.where(np.isnan(found).any(axis=1, keepdims=True), np.nan, found)

    def _solved(self, keep: np.ndarray[Any, Any]) -> Floats:
        """Expected visits when journeys end at states that are not kept; errors of chances stay below 1e-9."""
        from scipy.sparse.linalg import LinearOperator, bicgstab

        size, begin = len(self.states), self.start * keep
        less = LinearOperator((size, size), dtype=float, matvec=lambda v: v - keep * (self.moves @ v))
        found, far = begin, 1.0
        for _try in range(5):  # |error of a chance| <= sum |residual|, as no chance exceeds 1
            found, _info = bicgstab(less, begin, x0=found, rtol=1e-13, atol=0, maxiter=400)
            if (far := float(np.abs(begin - less @ found).sum())) < 1e-10:
                break
        require(far < 1e-9, "The chain of channels cannot be solved: journeys hardly ever end. Collapse repeats.")
        return np.asarray(found)


class Markov(Framed):
    """Markov chain of channels: what each is worth, by what is lost without it.

    Columns: ``channel, removal_effect, value_removal_effect, conversions, value, share``. A removal effect is the share
    of all conversions (or of their value) that is lost if journeys end where they would meet the channel; `conversions`
    and `value` are the totals split in proportion to the effects.
    """

    columns: ClassVar = ("channel", "removal_effect", "value_removal_effect", "conversions", "value", "share")
    aside: ClassVar = ("chain", "channels", "currency")

    @property
    def removal_effects(self) -> dict[str, float]:
        """Share of conversions lost without each channel."""
        return dict(zip(self.channel, self.removal_effect, strict=True))

    @property
    def value_removal_effects(self) -> dict[str, float]:
        """Share of the value lost without each channel."""
        return dict(zip(self.channel, self.value_removal_effect, strict=True))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the conversions that each channel is credited with."""
        return dict(zip(self.channel, self.share, strict=True))

    @property
    def transitions(self) -> pd.DataFrame:
        """Moves between states: ``from, to, n, probability``; a state is a path of up to `order` channels."""
        steps = self.chain.steps
        names, ends = dict(enumerate(self.channels, 1)), {CONVERTED: "conversion", LEFT: "null"}

        def told(state: int) -> str:
            path = []
            while state:
                state, last = divmod(state, self.chain.base)
                path.append(names[last])
            return " > ".join(reversed(path))

        to = np.where(steps.then > 0, steps.state % self.chain.base ** (steps.order - 1) * self.chain.base, 0)
        called = {
            state: told(int(state)) for state in np.unique(np.concatenate([steps.state, to + steps.then.clip(0)]))
        }
        begun = steps.then == BEGUN
        rows = pd.DataFrame({"from": [called[s] for s in steps.state], "n": steps.n})
        rows["to"] = [ends.get(t) or called[s + t] for s, t in zip(to, steps.then, strict=True)]
        rows.loc[begun, ["from", "to"]] = [["start", name] for name in rows.loc[begun, "from"]]
        rows = rows[rows["n"] > 0][["from", "to", "n"]].sort_values(["from", "to"], ignore_index=True)
        return rows.assign(probability=rows["n"] / rows.groupby("from")["n"].transform("sum"))

    def drawn(self, language: str) -> str:
        """Where journeys go from each channel, as an HTML figure."""
        rows, ends = self.transitions, {k: say(f"markov.{k}", language) for k in ("start", "conversion", "null")}
        wide = rows.pivot_table(index="from", columns="to", values="probability", fill_value=0.0)
        wide = wide.reindex(
            index=["start", *self.channels], columns=[*self.channels, "conversion", "null"], fill_value=0.0
        )
        told = {key: say(f"markov.{key}", language) for key in ("title", "note")}
        told["alt"] = self.sentence(language)
        return plots.chart(partial(plots.heatmap, wide.rename(index=ends, columns=ends), language=language), **told)

    def removal_effect_of(self, *channels: str) -> float:
        """Share of conversions lost without all of the `channels` at once."""
        for name in channels:
            require_known(name, self.channels, f"There is no channel {name!r}.")
        return float(self.chain.lost([self.channels.index(name) + 1 for name in channels])[0])

    def sentence(self, language: str = "en") -> str:
        most = int(np.argmax(self.removal_effect))
        told = {"channel": self.channel[most], "effect": percent(self.removal_effect[most], language)}
        told |= {"chance": percent(self.conversion_probability, language), "order": self.order}
        return say("markov.sentence", language, states=number(self.n_states, language), **told)


def markov(journeys: Journeys, *, order: int = 1) -> Markov:
    """Credit channels by a Markov chain whose state is the last `order` (1 to 3) channels; exact, nothing is simulated.

    Parameters: `journeys`; `order`, whole. Raises `KpiError` for another order, and for chains that hardly ever end.
    Anderl, Becker, von Wangenheim & Schumann (2016), International Journal of Research in Marketing 33(3), 457-474.

    >>> from kpi_helpers.paths import from_paths
    >>> rows = pd.DataFrame({"path": ["C1 > C2 > C3", "C1", "C2 > C3"], "won": [1, 0, 0], "lost": [0, 1, 1]})
    >>> told = markov(from_paths(rows, path="path", conversions="won", nulls="lost"))
    >>> round(told.conversion_probability, 9), {name: round(v, 9) for name, v in told.removal_effects.items()}
    (0.333333333, {'C1': 0.5, 'C2': 1.0, 'C3': 1.0})
    """
    require(order in (1, 2, 3), f"order={order!r}: a state is the last 1, 2 or 3 channels.")
    chain = Chain(journeys.steps(order))
    effects = chain.effects()
    credit = credited(effects, journeys)
    rows = zip(journeys.channels, *effects, *credit, credit[0] / credit[0].sum(), strict=True)
    whole: dict[str, Any] = {
        "order": order,
        "conversion_probability": float(chain.reached[0]),
        "n_states": len(chain.states),
    }
    whole |= {"chain": chain, "channels": journeys.channels, "currency": journeys.currency}
    return Markov.of(rows, **whole)


def credited(effects: Floats, journeys: Journeys) -> Floats:
    """Conversions and value (2, channels) of the journeys with touches, in proportion to the removal effects."""
    totals = journeys.touched
    with np.errstate(invalid="ignore"):
        part = effects / effects.sum(axis=1, keepdims=True)
    return np.where(totals[:, None] > 0, part, 0.0) * totals[:, None]  # no value: none to share out


class Orders(Framed):
    """How much memory a Markov chain should have: columns ``order, states, parameters, log_likelihood, bic``."""

    columns: ClassVar = ("order", "states", "parameters", "log_likelihood", "bic")

    @property
    def best(self) -> int:
        """The order of the smallest BIC."""
        return int(self.order[int(np.argmin(self.bic))])

    def sentence(self, language: str = "en") -> str:
        return say("orders.sentence", language, best=self.best)


def order_selection(journeys: Journeys, *, max_order: int = 3) -> Orders:
    """Compare Markov chains of order 1 to `max_order` by Schwarz's criterion; the smallest BIC predicts best.

    Parameters: `journeys`; `max_order`, 1 to 3. Raises `KpiError` for another order.
    Schwarz (1978), Annals of Statistics 6(2), 461-464; Katz (1981), Technometrics 23(3), 243-249 (of chains).

    >>> from kpi_helpers.paths import from_paths
    >>> rows = pd.DataFrame({"path": ["A", "A > A", "A > A > A", "A > A > A > A"], "won": [40, 20, 10, 10]})
    >>> order_selection(from_paths(rows, path="path", conversions="won")).best
    1
    """
    require(max_order in (1, 2, 3), f"max_order={max_order!r} must be 1, 2 or 3.")
    rows: list[tuple[Any, ...]] = []
    n = 0.0
    for order in range(1, max_order + 1):
        steps = journeys.steps(order)
        begun, known = steps.then == BEGUN, steps.n > 0
        states, row = np.unique(np.where(begun, -1, steps.state), return_inverse=True)
        whole = np.bincount(row, steps.n)
        fit = float((steps.n[known] * np.log(steps.n[known] / whole[row[known]])).sum())
        free, n = int(known.sum()) - len(states), n if rows else whole[1:].sum()  # touches, at every order
        rows.append((order, len(states) - 1, free, fit, free * np.log(n) - 2 * fit))
    return Orders.of(rows)
