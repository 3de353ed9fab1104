"""Notebook 08: posts and pages, how far contacts reach, sequences, automations, surveys, who comes back when asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

import ibis
import pandas as pd
from ibis import _

from kpi_helpers import kpis
from kpi_helpers.contacts import Shares, fetched, recent, shares
from kpi_helpers.contacts import follow as follow
from kpi_helpers.contacts import ordered as ordered
from kpi_helpers.contacts import reach as reach
from kpi_helpers.contacts import reengaged as reengaged
from kpi_helpers.contacts import runs as runs
from kpi_helpers.contacts import stickiness as stickiness
from kpi_helpers.errors import require
from kpi_helpers.result import Framed, Result, measure, percent, say
from kpi_helpers.scoring import dimensions
from kpi_helpers.sources import Source
from kpi_helpers.timings import Ranking, rank_rates
from kpi_helpers.timings import best_hours as best_hours

SEEN, HITS = ("reach", "impressions"), ("likes", "comments", "shares")
MOST = 1000  # pages that are ranked: those seen most
#: what surveys measure, and the least that an answer counts
ASKED = {"csat": 0, "nps": -1, "brand_awareness": 0, "brand_awareness_aided": 0}


#: sections of the notebook, and the columns that each needs, by table (one of several)
NEEDS: dict[str, tuple[dict[str, str], ...]] = {
    "posts": ({"content": "content_id"},), "hours": ({"content": "published_at"},),
    "pages": ({"web_events": "happened_at content"},), "stickiness": ({"web_events": "happened_at"},),
    "reach": ({"touchpoints": "channel"}, {"messages": "sent_at"}),
    "ordered": ({"messages": "sent_at", "orders": "ordered_at"},),
    "steps": ({"messages": "sent_at workflow step"},), "runs": ({"automation_runs": "run_at"},),
    "reengaged": ({"messages": "sent_at workflow", "orders": "ordered_at"},),
    "survey": ({"surveys": "survey"},), "discovery": ({"surveys": "discovery"},),
}  # fmt: skip


class Sections(Framed):
    """Parts of the notebook that the data allow, and what the others lack."""

    columns: ClassVar = ("section", "lacks")

    def __contains__(self, section: str) -> bool:
        return bool((self.frame["lacks"][self.frame["section"] == section] == "").any())

    def sentence(self, language: str = "en") -> str:
        left = "; ".join(f"{say(f'sections.{s}', language)} ({lacks})" for s, lacks in self.frame.to_numpy() if lacks)
        return say("sections.some" if left else "sections.all", language, left=left)


def sections(data: Source) -> Sections:
    """Decide which parts of the notebook the tables of a source allow."""
    rows = []
    for section, ways in NEEDS.items():
        lacks = [[f"{t}.{c}" for t in way for c in way[t].split() if c not in data.columns(t)] for way in ways]
        rows.append((section, min((", ".join(each) for each in lacks), key=len)))
    return Sections.of(rows)


def fed(data: Source, ids: Sequence[str]) -> list[str]:
    """Those of the KPIs that the source can feed by channel."""
    missing = kpis.feeds(data)
    return [k for k in ids if not missing[k] and all("channel" in dimensions(data, t) for t in kpis.kpi(k).tables)]


def read_posts(data: Source, *, as_of: date | None, days: int = 365) -> pd.DataFrame:
    """Posts of the last `days`: ``name, kind, weekday`` (0 is Monday), ``hour, hits`` (interactions) and ``shown``."""
    rows = recent(data, "content", "published_at", as_of, days)
    seen = [c for c in SEEN if c in rows.columns]
    require(bool(seen), "content has neither reach nor impressions: how many saw a post is not known. Map one of them.")
    acted = [c for c in HITS if c in rows.columns]
    require(bool(acted), f"content has none of {', '.join(HITS)}: there is no interaction to count. Map one of them.")
    at = rows.published_at if "published_at" in rows.columns else ibis.null("timestamp")
    told = {"weekday": at.day_of_week.index(), "hour": at.hour(), "shown": rows[seen[0]]}
    told |= {"hits": sum((rows[c] for c in acted[1:]), rows[acted[0]])}
    told |= {"kind": rows.kind if "kind" in rows.columns else ibis.null("string")}
    told |= {c: v.cast("float64") for c, v in told.items() if c != "kind"}
    found = rows.select(name=rows.content_id, **told).order_by("name").to_pyarrow().to_pandas()
    require(len(found) > 0, "content has no posts in these days. Choose more days, or a later as_of.")
    return found


def top_pages(data: Source, *, as_of: date | None, days: int = 28, seen: str = "view", acted: str = "cart") -> Ranking:
    """Rank the most seen pages or products by how often an event follows, such as the cart after a view."""
    rows = recent(data, "web_events", "happened_at", as_of, days).filter(_.content.notnull())
    sums = rows.group_by(name=_.content).aggregate(
        shown=_.count(where=_.event == seen), hits=_.count(where=_.event == acted)
    )
    found = sums.filter(_.shown > 0).order_by(ibis.desc("shown"), "name").limit(MOST).to_pyarrow().to_pandas()
    return rank_rates(found.astype({"shown": float, "hits": float}), what="pages")


class Survey(Framed):
    """What surveys found among those who `answered`, and what it could be if all `invited` had: `worst` and `best`."""

    columns: ClassVar = ("survey", "kpi", "value", "low", "high", "worst", "best", "answered", "invited")
    ways: ClassVar = {"kpi": kpis.kpi}

    def sentence(self, language: str = "en") -> str:
        if self.frame.empty:
            return say("survey.none", language)
        row, told = self.frame.iloc[0], {"survey": self.survey[0], "level": f"{self.confidence:.0%}"}
        k = kpis.kpi(row["kpi"])
        told |= {c: measure(row[c], k.unit, language) for c in ("value", "low", "high", "worst", "best")}
        told |= {"name": k.name[language], "answered": percent(row["answered"] / row["invited"], language)}
        silent = "sentence" if row["answered"] < row["invited"] else "all" if row["invited"] > 0 else "unknown"
        said = say(f"survey.{silent}", language, **told)
        return f"{said} {say('survey.early', language, n=self.early_n)}" if self.early_n else said


def survey(data: Source, *, as_of: date | None, confidence: float = 0.95) -> Survey:
    """Tell CSAT, NPS and awareness by survey with intervals, and between what bounds the silent leave them.

    The bounds ask nothing of the silent (Manski 1989, Journal of Human Resources 24:343-360). Raises a `KpiError` if
    scores are off their scale.
    """
    rows = data.table("surveys")
    off = [p.line() for p in data.check("surveys").problems if p.rule == "off the scale"]
    require(not off, " ".join(off))
    early = _.answered_at < _.sent_at if "answered_at" in rows.columns else ibis.literal(False)
    early_n = rows.aggregate(n=_.count(where=early)).to_pyarrow()["n"][0].as_py()
    missing = kpis.feeds(data)
    ids = [k for k in ASKED if not missing[k]]
    f = kpis.scorecard(data, ["survey_response", *ids], by="survey", end=as_of, confidence=confidence)
    invited = f[f["kpi"] == "survey_response"].set_index("survey")["denominator"]
    f = f[f["kpi"].isin(ids) & (f["denominator"] > 0)].assign(invited=lambda f: f["survey"].map(invited).astype(float))
    silent, scale = f["invited"] - f["denominator"], [kpis.kpi(k).scale for k in f["kpi"]]
    f["worst"] = (f["numerator"] + f["kpi"].map(ASKED).astype(float) * silent) / f["invited"] * scale
    f["best"] = (f["numerator"] + silent) / f["invited"] * scale
    f = f.rename(columns={"denominator": "answered"})[list(Survey.columns)].reset_index(drop=True)
    return Survey(frame=f, whole={"early_n": early_n, "confidence": confidence})


def discovery(data: Source, *, as_of: date | None, confidence: float = 0.95) -> Shares:
    """Tell how people found the brand, by their own answer."""
    rows = recent(data, "surveys", "sent_at", as_of)
    f = fetched(rows.filter(_.discovery.notnull()).group_by(name="discovery").aggregate(people=_.count()))
    f = f.sort_values(["people", "name"], ascending=[False, True])
    return shares("discovery", f.assign(out_of=f["people"].sum()), confidence, answered=int(f["people"].sum()))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Engaged(Result):
    """The head of the report: the first of the answers that the data allow, and the next ones below it."""

    answers: tuple[Result, ...]

    aside: ClassVar = ("answers",)

    name = "answer"

    def to_frame(self) -> pd.DataFrame:
        return self.answers[0].to_frame().head(1)

    def sentence(self, language: str = "en") -> str:
        return self.answers[0].sentence(language)
