"""A running experiment seen more than once: boundaries of planned looks, intervals for any look, cost of peeking."""

import math
from typing import ClassVar

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from kpi_helpers.errors import require, require_known
from kpi_helpers.result import Framed, number, percent, say
from kpi_helpers.stats import Floats, checked_confidence

MOST, FARTHEST, LEAST = 1000, 12.0, 1e-25  # looks; z beyond which no path is followed; chance that is as good as none
ROOT, (NODES, WEIGHTS) = math.sqrt(2 * math.pi), leggauss(10)


def sequential_boundaries(
    information_shares: ArrayLike, *, spending: str = "obrien-fleming", confidence: float = 0.95
) -> Floats:
    """Tell the boundaries of |z| at planned looks: stop at the first crossed, and the whole test keeps its level.

    A boundary needs no later share. Lan & DeMets (1983), Biometrika 70:659-663; the recursion is that of Armitage,
    McPherson & Rowe (1969), JRSS A 132:235-244. Parameters: `information_shares` (k,), part of the planned units that
    each look has, rising, in (0, 1], 0.001 or more apart; what the last leaves out stays unspent; `spending` of each
    side, "obrien-fleming" (hardly any early, infinite z where none) or "pocock" (evenly); `confidence`, 1 less the
    false alarms of both sides. Raises `KpiError` if one is outside, or the shares do not rise.

    >>> sequential_boundaries([0.5, 1]).round(5).tolist()  # R: rpact::getDesignGroupSequential
    [2.96259, 1.9686]
    """
    shares = np.atleast_1d(np.asarray(information_shares, dtype=float))
    rise = shares.ndim == 1 and len(shares) > 0 and np.diff(shares, prepend=0).min() > 0.999 / MOST and shares[-1] <= 1
    require(bool(rise), f"information_shares={shares} must rise by 0.001 or more, up to 1. Write 0.5 for half.")
    require_known(spending, ("obrien-fleming", "pocock"), f"spending={spending!r} is not known.")
    side = (1 - checked_confidence(confidence)) / 2
    early, evenly = 2 * ndtr(ndtri(side / 2) / np.sqrt(shares)), side * np.log1p((math.e - 1) * shares)
    return _follow(shares, spent=np.diff(evenly if spending == "pocock" else early, prepend=0))[0]


def peeking(n_looks: int, *, confidence: float = 0.95) -> float:
    """Tell what stopping at the first look with p below the level costs: the exact share of false alarms.

    Parameters: `n_looks`, 1 to 1,000, equally spaced; `confidence` as if each were the only one. Raises `KpiError` if
    they are outside. Method: the recursion of `sequential_boundaries`.

    >>> [round(peeking(n), 3) for n in (1, 5, 20)]
    [0.05, 0.142, 0.248]
    """
    require(n_looks in range(1, MOST + 1), f"n_looks={n_looks!r} must be a whole number from 1 to {MOST}.")
    z = float(ndtri((1 + checked_confidence(confidence)) / 2))
    return float(_follow(np.arange(1, n_looks + 1) / n_looks, z=z)[1].sum())


def _follow(shares: Floats, *, spent: Floats | None = None, z: float = math.inf) -> tuple[Floats, Floats]:
    """Boundaries, all `z` or as one side's `spent` demands, and the chance that each is the first crossed.

    A path is z·√share, so its steps are independent; `mass` lies where paths are that have not crossed yet.
    """
    steps, root = np.sqrt(np.diff(shares, prepend=0)), np.sqrt(shares)
    at, mass, edge = np.zeros(1), np.ones(1), 0.0
    found, crossed = np.full(len(shares), z) * root, np.empty(len(shares))
    for k, step in enumerate(steps):
        if spent is not None:  # Newton on the log of the chance, which is concave: from above it goes down to the root
            found[k] = min(-ndtri(spent[k]) * root[k], edge - ndtri(spent[k]) * step)
            for _ in range(20 if spent[k] > LEAST else 0):
                gap = (at - found[k]) / step
                chance, density = mass @ ndtr(gap), mass @ np.exp(-(gap**2) / 2) / (step * ROOT)
                found[k] += math.log(chance / spent[k]) * chance / density
        crossed[k] = 2 * (mass @ ndtr((at - found[k]) / step))
        edge = min(found[k], FARTHEST * root[k])
        panels = math.ceil(edge / min(steps[k : k + 2]))  # each two steps wide or less, with ten points of Gauss
        half = edge / panels
        new = (half * (2 * np.arange(panels)[:, None] + 1 + NODES) - edge).ravel()
        density = np.exp(-(((new[:, None] - at) / step) ** 2) / 2) @ mass / (step * ROOT)
        at, mass = new, half * np.tile(WEIGHTS, panels) * density
    return found / root, crossed


def followed(
    difference: Floats, variance: Floats, n: Floats, *, planned_n: float | None = None,
    mixture_sd: float | None = None, confidence: float = 0.95,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """p-values and bounds that hold at every look, (k,) each, from any difference, its variance and units at each.

    Parameters, Raises and source as in `always_valid`.

    >>> told = np.array([0.0174]), np.array([(0.0996 * 0.9004 + 0.117 * 0.883) / 5000]), np.array([10_000])
    >>> [float(v[-1].round(6)) for v in followed(*told, planned_n=5000)]  # gbstats: .102626, -.001620, .036420
    [0.102626, -0.00162, 0.03642]
    """
    cost, tuned = -2 * math.log(1 - checked_confidence(confidence)), max(n[-1], 1) if planned_n is None else planned_n
    require(tuned > 0 and (mixture_sd is None or mixture_sd > 0), "planned_n and mixture_sd must be above 0.")
    d, v = difference, variance
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = (cost + math.log1p(cost)) / tuned * n if mixture_sd is None else mixture_sd**2 / v  # tau^2 / v
        evidence = d**2 / v * wide / (1 + wide) / 2 - np.log1p(wide) / 2  # log of the mixture likelihood ratio
        half = np.sqrt(v * (1 + 1 / wide) * (np.log1p(wide) + cost))
    p = np.minimum.accumulate(np.where(v > 0, np.exp(-np.maximum(evidence, 0)), 1.0))
    low = np.maximum.accumulate(np.where(v > 0, d - half, -np.inf))
    return p, low, np.minimum.accumulate(np.where(v > 0, d + half, np.inf))


class AlwaysValid(Framed):
    """Looks at a difference of rates (treatment - control) that hold however often one looks; `n` counts both arms.

    `reason` is "unbounded" while nothing varies, "empty" if no difference fits all looks: low and high become NaN.
    """

    columns: ClassVar = ("n", "difference", "p_values", "low", "high")

    def sentence(self, language: str = "en") -> str:
        told = {"n": number(self.n[-1], language), "looks": str(len(self.n)), "pp": say("unit.pp", language)}
        for k in ("low", "high", "difference"):
            told[k] = percent(getattr(self, k)[-1], language, decimals=2, sign=True).replace("%", told["pp"])
        kind = self.reason or ("stop" if self.p_values[-1] < 1 - self.confidence else "go on")
        return say(f"always_valid.{kind}", language, p=number(self.p_values[-1], language, decimals=3), **told)


def always_valid(
    control: tuple[ArrayLike, ArrayLike], treatment: tuple[ArrayLike, ArrayLike], *,
    planned_n: float | None = None, mixture_sd: float | None = None, confidence: float = 0.95,
) -> AlwaysValid:  # fmt: skip
    """Follow a difference of rates with p-values and intervals that hold at every look, planned or not.

    A normal mixture with unpooled variance, for 100 or more successes an arm: Johari, Koomen, Pekelis & Walsh (2022),
    Operations Research 70:1806-1821; tuned as in Waudby-Smith et al. (2024), Annals of Statistics 52:2613-2640.
    Parameters: `control` and `treatment`, (successes, trials), each (k,), counts since the start at each look;
    `planned_n`, units of both arms for which it is narrowest, by default those of the last look; or `mixture_sd`, that
    of the true differences; `confidence` of all looks. Raises `KpiError` if counts are impossible, fall or do not pair.

    >>> always_valid(([100, 498], [1000, 5000]), ([120, 585], [1000, 5000]), planned_n=5000).p_values[-1].__round__(6)
    0.102626
    """
    (x0, n0), (x1, n1) = _arm("control", control), _arm("treatment", treatment)
    require(len(n0) == len(n1), f"control has {len(n0)} looks, treatment {len(n1)}. Give both arms at each look.")
    total = n0 + n1
    require(planned_n is None or mixture_sd is None, "planned_n and mixture_sd say one thing in two ways. Give one.")
    with np.errstate(divide="ignore", invalid="ignore"):
        p0, p1 = x0 / n0, x1 / n1
        d, v = p1 - p0, p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1
    p, low, high = followed(d, v, total, planned_n=planned_n, mixture_sd=mixture_sd, confidence=confidence)
    fits = np.where(low <= high, 1.0, np.nan)
    rows = zip(total.astype(int).tolist(), *(a.tolist() for a in (d, p, low * fits, high * fits)), strict=True)
    reason = "empty" if np.isnan(fits[-1]) else "unbounded" if np.isinf(high[-1]) else ""
    return AlwaysValid.of(rows, confidence=confidence, reason=reason)


def _arm(name: str, arm: tuple[ArrayLike, ArrayLike]) -> tuple[Floats, Floats]:
    x, n = (np.atleast_1d(np.asarray(a, dtype=float)) for a in arm)
    require(x.ndim == 1 and 0 < len(x) == len(n), f"{name} must be (successes, trials), each with one count a look.")
    possible, rises = (x >= 0) & (x <= n) & np.isfinite(n), (np.diff(x) >= 0) & (np.diff(n - x) >= 0)
    require(bool(possible.all()), f"{name}: need 0 <= successes <= trials at each look. Were the two swapped?")
    require(bool(rises.all()), f"{name} falls in successes or misses. Give counts since the start (numpy.cumsum).")
    return x, n
