"""When to post and what: rates of the hours of a week, of posts and pages, drawn towards their mean."""

from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kpi_helpers import plots
from kpi_helpers.errors import require, require_known
from kpi_helpers.rates import shrink_rates
from kpi_helpers.result import Framed, number, percent, say


class Hours(Framed):
    """Rates of the 168 hours of a week: `raw` as counted, `mean` shrunk with its 90% interval, `clear` 1, 0 or -1.

    `posts` is how many each rests on; `hours` are those of the day that are clearly better over all weekdays.
    """

    digits: ClassVar = 6
    columns: ClassVar = ("weekday", "hour", "posts", "raw", "mean", "low", "high", "clear")
    aside: ClassVar = ("hours",)

    def slot(self, row: Any, language: str) -> str:
        """Weekday and hour of a row in words."""
        return f"{say('hours.weekdays', language).split('|')[int(row.weekday)]} {int(row.hour):02}:00"

    def sentence(self, language: str = "en") -> str:
        best = self.frame.loc[self.frame["raw"].idxmax()]
        told = {k: percent(best[k], language) for k in ("raw", "mean", "low", "high")}
        told |= {"usual": percent(self.usual, language), "slot": self.slot(best, language)}
        told |= {"times": number(best["raw"] / self.usual, language, decimals=1)}
        told |= {"n": say("hours.one" if best["posts"] == 1 else "hours.more", language, n=int(best["posts"]))}
        first, last = (self.hours[0], self.hours[-1]) if self.hours else (0, -1)
        row = len(self.hours) == last - first + 1  # one after the other
        told["hours"] = f"{first}:00–{last + 1}:00" if row else ", ".join(f"{h}:00" for h in self.hours)
        halved = best["raw"] - best["mean"] > best["mean"] - self.usual  # more than half of its lead is gone
        kind = "none" if not self.hours else "sentence" if halved else "clear"
        return say(f"hours.{kind}", language, **told)

    def drawn(self, language: str) -> str:
        """Both rates of the week as an HTML figure."""
        words = {k: say(f"hours.{k}", language).split("|") for k in ("weekdays", "panels")}
        cells = [self.frame[c].to_numpy(float).reshape(7, 24) for c in ("raw", "mean", "clear")]
        told = {"title": say("hours.title", language), "alt": self.sentence(language)}
        told["note"] = say("hours.note", language, n=number(self.n, language), aside=self.aside_n)
        return plots.chart(lambda axes, narrow: plots.week(axes, narrow, *cells, language=language, **words), **told)


def best_hours(posts: pd.DataFrame) -> Hours:
    """Tell which hours of the week earn more, each rate drawn towards the mean as far as its posts are few.

    A post is the sample, not a person: those who saw the same post act alike, so that a person counts less the more
    saw it (beta-binomial; Kleinman 1973, JASA 68:46-54). `posts` as from `read_posts`; posts without an hour, unseen
    or with more interactions than people are set aside (`aside_n`). Raises a `KpiError` if none is left.
    """
    kept = posts[(posts["shown"] > 0) & posts["hits"].between(0, posts["shown"]) & posts["hour"].notna()]
    require(
        len(kept) > 0, "The best hour cannot be told, because no post has a time, people who saw it, and reactions."
    )
    require(len(kept) > 1, "The best hour cannot be told of a single post.")
    slot = (24 * kept["weekday"] + kept["hour"]).astype(int).to_numpy()
    rho = likeness(slot, kept["hits"], kept["shown"])
    parts, usual = _parts(kept, rho)
    f, by_hour = (_shrunk(parts.groupby(key).sum().reindex(range(size), fill_value=0.0), usual)
                  for key, size in ((slot, 168), (slot % 24, 24)))  # fmt: skip
    f = f.assign(weekday=f.index // 24, hour=f.index % 24).astype({"posts": int})
    hours = tuple(by_hour.index[by_hour["clear"] > 0].tolist())
    whole = {"usual": usual, "rho": rho, "n": len(kept), "aside_n": len(posts) - len(kept), "hours": hours}
    return Hours(frame=f[list(Hours.columns)], whole=whole)


def likeness(group: Any, hits: Any, shown: Any) -> float:
    """Correlation of two people who saw the same post, by moments within groups (within all where none has two).

    >>> likeness([0, 0, 0, 0], [10, 10, 10, 10], [100, 100, 100, 100])
    0.0
    """
    f = pd.DataFrame({"g": group, "p": np.asarray(hits, float) / np.asarray(shown, float), "n": np.asarray(shown)})
    if not f["g"].duplicated().any():
        f["g"] = 0
    same = f.groupby("g")["p"]
    mean, free = same.transform("mean"), 1 - 1 / same.transform("size")
    chance = mean * (1 - mean) * free
    more = float((chance * (1 - 1 / f["n"])).sum())
    return float(np.clip((((f["p"] - mean) ** 2).sum() - (chance / f["n"]).sum()) / more, 0, 1)) if more > 0 else 0.0


def _shrunk(sums: pd.DataFrame, usual: float) -> pd.DataFrame:
    """Add raw and shrunk rates, and whether the interval lies above or below the usual rate."""
    found = shrink_rates(sums["x"], sums["n"]).frame.to_numpy().T
    f = sums.assign(raw=sums["x"] / sums["n"].where(sums["n"] > 0))  # weighed as what it is drawn to
    f["mean"], f["low"], f["high"] = found
    return f.assign(clear=(f["low"] > usual).astype(int) - (f["high"] < usual).astype(int))


class Ranking(Framed):
    """Posts or pages (`what`) by their shrunk rate, best first; columns as in `Hours`."""

    digits: ClassVar = 6
    columns: ClassVar = ("name", "hits", "shown", "raw", "mean", "low", "high", "clear")

    def to_frame(self) -> pd.DataFrame:
        return Framed.to_frame(self).head(50)

    def sentence(self, language: str = "en") -> str:
        told = {k: percent(f(self.frame[c]), language) for k, c, f in RANGES}
        n_clear = int((self.frame["clear"] > 0).sum())
        told |= {"n": number(len(self.frame), language), "clear": str(n_clear), "usual": percent(self.usual, language)}
        return say(
            f"ranking.{'sentence' if n_clear else 'none'}", language, what=say(f"ranking.{self.what}", language), **told
        )


RANGES: tuple[Any, ...] = (("worst", "raw", min), ("best", "raw", max), ("low", "mean", min), ("high", "mean", max))


def rank_rates(found: pd.DataFrame, by: str = "name", *, what: str = "posts") -> Ranking:
    """Rank what was `shown` (``name, hits, shown``) by the share of `hits`, small counts drawn towards the mean.

    `by` another column, such as ``kind``: posts together, each of which is one of the sample, as in `best_hours`. Of
    single posts or pages (``name``, each once) the people are the sample. Raises a `KpiError` if nothing can be ranked.
    """
    for column in ("hits", "shown", by):
        require_known(column, found.columns, f"found has no column {column}.")
    kept = found[(found["shown"] > 0) & found["hits"].between(0, found["shown"]) & found[by].notna()]
    require(len(kept) > 0, f"No {what} can be ranked: none was seen, or all have more reactions than people.")
    f, usual = _parts(kept, likeness(kept[by], kept["hits"], kept["shown"]))
    f = f if by != "name" or kept[by].duplicated().any() else _parts(kept, 0.0)[0]  # of one post its people are it
    f = _shrunk(f.groupby(kept[by]).sum(), usual).rename_axis("name").reset_index()
    f = f.sort_values(["mean", "name"], ascending=[False, True], ignore_index=True)
    return Ranking(
        frame=f[list(Ranking.columns)], whole={"what": what, "usual": usual, "aside_n": len(found) - len(kept)}
    )


def _parts(kept: pd.DataFrame, alike: float) -> tuple[pd.DataFrame, float]:
    """What each post adds to the sums of its group, and the rate of all; a person counts less the more saw the post."""
    worth = 1 / (1 + (kept["shown"] - 1) * alike)
    f = kept[["hits", "shown"]].assign(posts=1.0, x=kept["hits"] * worth, n=kept["shown"] * worth)
    return f, float(f["x"].sum() / f["n"].sum())
