"""A running experiment seen more than once: boundaries of planned looks, intervals for any look, cost of peeking."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from kpi_helpers.errors import require, require_known
from kpi_helpers.result import Result, measure, number, percent, say
from kpi_helpers.stats import Floats, checked_confidence

SPENDING: dict[str, Callable[[Floats, float], Floats]] = {  # what one side may have spent by each share
    "obrien-fleming": lambda share, tail: 2 * ndtr(ndtri(tail / 2) / np.sqrt(share)),
    "pocock": lambda share, tail: tail * np.log1p((math.e - 1) * share),
}
MOST, FARTHEST, LEAST = 1000, 12.0, 1e-25  # looks; z beyond which no path is followed; chance that is as good as none
NODES, WEIGHTS = leggauss(10)


def sequential_boundaries(
    information_shares: ArrayLike, *, spending: str = "obrien-fleming", confidence: float = 0.95
) -> Floats:
    """Tell the boundaries of |z| at planned looks: stop at the first crossed, and the whole test keeps its level.

    Accurate to 1e-9; a boundary needs no later share. Lan & DeMets (1983), Biometrika 70:659-663; the recursion of
    Armitage, McPherson & Rowe (1969), JRSS A 132:235-244. Parameters: `information_shares` (k,), part of the planned
    units that each look has, rising, in (0, 1], 0.001 or more apart, what the last leaves out stays unspent;
    `spending` of each side, "obrien-fleming" (hardly any early; infinite z where none) or "pocock" (evenly);
    `confidence`, 1 less the false alarms of both sides. Raises `KpiError` if one is outside, or the shares do not rise.

    >>> sequential_boundaries([0.5, 1]).round(5).tolist()  # rpact: getDesignGroupSequential(sided=2, "asOF")
    [2.96259, 1.9686]
    """
    shares = np.atleast_1d(np.asarray(information_shares, dtype=float))
    told = f"information_shares={shares.tolist()} must"
    inside = shares.ndim == 1 and len(shares) > 0 and bool(np.all((shares > 0) & (shares <= 1)))
    require(inside, f"{told} lie in (0, 1]. Write 0.5 for half of the planned units.")
    require(bool(np.all(np.diff(shares) > 0)), f"{told} rise from look to look. Give them in the order of time.")
    apart = bool(np.all(np.diff(shares, prepend=0) > 0.999 / MOST))
    require(apart, f"{told} be 0.001 or more apart. Leave out looks that add next to nothing.")
    require_known(spending, SPENDING, f"spending={spending!r} is not known.")
    spent = np.diff(SPENDING[spending](shares, (1 - checked_confidence(confidence)) / 2), prepend=0)
    return _follow(shares, spent=spent)[0]


def _follow(shares: Floats, *, spent: Floats | None = None, z: float = math.inf) -> tuple[Floats, Floats]:
    """Boundaries as z, each as `spent` demands or all `z`; chance that each is the first crossed, by either side.

    A path is z·√share, so its steps are independent; `mass` lies where paths are that have not crossed yet.
    """
    steps, root = np.sqrt(np.diff(shares, prepend=0)), np.sqrt(shares)
    at, mass, edge = np.zeros(1), np.ones(1), 0.0
    edges, crossed = np.empty(len(shares)), np.empty(len(shares))
    for k, step in enumerate(steps):
        beyond = partial(_beyond, at=at, mass=mass, step=step)
        edges[k] = z * root[k] if spent is None else _boundary(spent[k], beyond, edge, step, root[k])
        crossed[k] = 2 * beyond(edges[k])[0]
        edge = min(edges[k], FARTHEST * root[k])
        panels = math.ceil(edge / min(steps[k : k + 2]))  # each two steps wide or less, with ten points of Gauss
        half = edge / panels
        new = (half * (2 * np.arange(panels)[:, None] + 1 + NODES) - edge).ravel()
        mass = half * np.tile(WEIGHTS, panels) * (np.exp(-(((new[:, None] - at) / step) ** 2) / 2) @ mass)
        at, mass = new, mass / (step * math.sqrt(2 * math.pi))
    return edges / root, crossed


def _beyond(x: float, *, at: Floats, mass: Floats, step: float) -> tuple[float, float]:
    """Chance and density of the paths that the next step takes beyond x."""
    gap = (at - x) / step
    return float(mass @ ndtr(gap)), float(mass @ np.exp(-(gap**2) / 2)) / (step * math.sqrt(2 * math.pi))


def _boundary(
    spent: float, beyond: Callable[[float], tuple[float, float]], edge: float, step: float, root: float
) -> float:
    """The point beyond which the paths have the chance `spent`, by Newton's method on its logarithm.

    The chance is log-concave, so from a point that is not below the root all steps go down to it.
    """
    z = -float(ndtri(spent))
    x = min(z * root, edge + z * step)  # were there no earlier look; were all paths at its edge
    for _ in range(50 if spent > LEAST else 0):
        chance, density = beyond(x)
        move = math.log(chance / spent) * chance / density
        x += move
        if abs(move) < 1e-12:
            break
    return x


def peeking(n_looks: int, *, confidence: float = 0.95) -> float:
    """Tell what stopping at the first look with p below the level costs: the exact share of false alarms.

    By the recursion of `sequential_boundaries`, for a normal test. Parameters: `n_looks`, 1 to 1,000, equally spaced;
    `confidence` as if each were the only one. Raises `KpiError` if they are outside.

    >>> [round(peeking(n), 3) for n in (1, 5, 20)]
    [0.05, 0.142, 0.248]
    """
    whole = isinstance(n_looks, int | np.integer) and 1 <= n_looks <= MOST
    require(bool(whole), f"n_looks={n_looks!r} must be a whole number from 1 to {MOST}.")
    z = float(ndtri((1 + checked_confidence(confidence)) / 2))
    return float(_follow(np.arange(1, n_looks + 1) / n_looks, z=z)[1].sum())


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AlwaysValid(Result):
    """Looks at a difference of rates (treatment - control) that hold however often one looks.

    `n` counts both arms, `p_values` only fall and `low` to `high` only narrows. From where no difference fits all
    looks, both are NaN and `reason` is "empty": the effect has changed, or the groups have.
    """

    n: tuple[int, ...]
    difference: tuple[float, ...]
    p_values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    confidence: float
    reason: str = ""

    def sentence(self, language: str = "en") -> str:
        p = self.p_values[-1]
        low, high, difference = (measure(v[-1], "pp", language) for v in (self.low, self.high, self.difference))
        unknown = "" if math.isfinite(self.high[-1] - self.low[-1]) else "unbounded"
        kind = self.reason or unknown or ("stop" if p < 1 - self.confidence else "go on")
        told = {"n": number(self.n[-1], language), "p": number(p, language, decimals=3 if p < 0.1 else 2)}
        told |= {"difference": difference, "low": low, "high": high, "looks": number(len(self.n), language)}
        return say(f"always_valid.{kind}", language, **told)


def always_valid(
    control: tuple[ArrayLike, ArrayLike], treatment: tuple[ArrayLike, ArrayLike], *,
    planned_n: float | None = None, mixture_sd: float | None = None, confidence: float = 0.95,
) -> AlwaysValid:  # fmt: skip
    """Follow a difference of rates with p-values and intervals that hold at every look, planned or not.

    A normal mixture with unpooled variance, which trusts 100 or more successes an arm: Johari, Koomen, Pekelis & Walsh
    (2022), Operations Research 70:1806-1821; tuned as in Waudby-Smith et al. (2024), Annals of Statistics 52:2613-2640.
    Parameters: `control` and `treatment`, (successes, trials), each (k,), counts since the start at each look, where
    nothing varies yet p is 1 and the interval unbounded; `planned_n`, units of both arms for which it is narrowest, by
    default those of the last look; or `mixture_sd`, standard deviation of the true differences (0.01 is one point);
    `confidence` of all intervals together. Raises `KpiError` if counts are impossible, fall or differ in length.

    >>> always_valid(([100, 498], [1000, 5000]), ([120, 585], [1000, 5000]), planned_n=5000)
    """
    (x0, n0), (x1, n1) = _arm("control", control), _arm("treatment", treatment)
    require(len(n0) == len(n1), f"control has {len(n0)} looks, treatment {len(n1)}. Give both arms at each look.")
    require(
        planned_n is None or mixture_sd is None, "planned_n and mixture_sd are two ways to say one thing. Give one."
    )
    total, alpha = n0 + n1, 1 - checked_confidence(confidence)
    tuned = total[-1] if planned_n is None else planned_n
    require(tuned > 0 and (mixture_sd is None or mixture_sd > 0), "planned_n and mixture_sd must be above 0.")
    with np.errstate(divide="ignore", invalid="ignore"):
        p0, p1 = x0 / n0, x1 / n1
        d, v = p1 - p0, p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1
        rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tuned
        wide = rho2 * total if mixture_sd is None else mixture_sd**2 / v  # variance of the mixture, in units of v
        evidence = d**2 * wide / (2 * v * (1 + wide)) - np.log1p(wide) / 2  # log of the mixture likelihood ratio
        half = np.sqrt(v * (1 + 1 / wide) * (np.log1p(wide) - 2 * math.log(alpha)))
    known = v > 0
    p = np.minimum.accumulate(np.where(known, np.exp(-np.maximum(evidence, 0)), 1.0))
    low = np.maximum.accumulate(np.where(known, d - half, -np.inf))
    high = np.minimum.accumulate(np.where(known, d + half, np.inf))
    empty = low > high
    low, high = np.where(empty, np.nan, low), np.where(empty, np.nan, high)
    rows = zip(total.astype(int).tolist(), *(a.tolist() for a in (d, p, low, high)), strict=True)
    return AlwaysValid.of(rows, confidence=confidence, reason="empty" if empty[-1] else "")


def _arm(name: str, arm: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    require(len(arm) == 2, f"{name} must be (successes, trials), two arrays with one count a look.")
    x, n = (np.atleast_1d(np.asarray(a, dtype=float)) for a in arm)
    require(x.shape == n.shape and x.ndim == 1 and len(x) > 0, f"{name}: successes {x.shape}, trials {n.shape} differ.")
    possible = bool(np.all((x >= 0) & (x <= n) & np.isfinite(n)))
    require(possible, f"{name}: need 0 <= successes <= trials at each look. Were the two swapped?")
    rising = bool(np.all(np.diff(x) >= 0) and np.all(np.diff(n - x) >= 0))
    require(rising, f"{name} is not cumulative: counts or misses fall. Give counts since the start (numpy.cumsum).")
    return x, n
