"""The KPI catalogue: each KPI declared once in ``catalogue.yaml``, and which of them suit an objective."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from kpi_helpers.errors import require, require_known
from kpi_helpers.result import Framed, Result, Text, asset, say

KINDS = ("additive", "ratio", "distinct", "mean", "quantile", "stock")
#: An objective that the data cannot feed is carried by the next one up the funnel.
UPSTREAM = {"sales": "leads", "leads": "traffic", "traffic": "awareness", "loyalty": "traffic", "awareness": None}
CAMPAIGN_TYPES = ("acquisition", "brand", "nurture", "promotion", "retention")
#: Names that articles use for one of several rates, and the rate that they get here.
ALIASES = {"conv_rate": "conv_rate_session"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kpi:
    """One KPI as the catalogue declares it; see ``catalogue.yaml`` for the meaning of each field."""

    id: str
    name: Text
    meaning: Text
    pitfall: Text
    numerator: tuple[str, ...]
    denominator: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    passing: str = ""
    kind: str = ""
    table: str = "channel_daily"
    change: bool = False
    paired: bool = False
    scale: float = 1.0
    unit: str
    direction: str
    group: str
    objectives: tuple[str, ...]
    activities: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()
    source: str = ""
    vanity: bool = False

    def lowered(self, language: str) -> str:
        """Name within a sentence: small letters but for abbreviations such as ROAS."""
        return " ".join(w if w.strip("()").isupper() else w.lower() for w in self.name[language].split(" "))

    @property
    def additive(self) -> bool:
        """Whether the KPI is a plain sum, which adds up over days and channels."""
        return self.kind == "additive" and not self.change

    @property
    def plannable(self) -> bool:
        """Whether a target can be set for it: a sum that is better high or low."""
        return self.additive and self.direction != "none"

    @property
    def measures(self) -> set[tuple[str, str]]:
        """Table and measure of everything that the KPI counts."""
        named = {m.lstrip("-") for m in self.numerator + self.denominator + self.less}
        return {(t, m) if dot else (self.table, t) for t, dot, m in (name.partition(".") for name in named)}

    @property
    def tables(self) -> set[str]:
        """Tables that the KPI reads."""
        return {table for table, _measure in self.measures}

    @property
    def columns(self) -> set[str]:
        """Measures that the KPI needs, without their tables."""
        return {measure for _table, measure in self.measures}

    @property
    def formula(self) -> str:
        """What is divided by what.

        >>> kpi("delivery_rate").formula
        '(sent − hard_bounces − soft_bounces) / sent'
        """
        above, below = _signed(self.numerator), _signed(self.denominator)
        whole = [f"({part})" if " " in part else part for part in (above, below)]
        text = " / ".join(whole) if below else above
        text += " − " + " / ".join(self.less) if self.less else ""
        about = {"quantile": "median of {}", "stock": "{} at the end"}.get(self.kind, "{}").format(text)
        return f"change of {about}" if self.change else f"{self.scale:g} × {about}" if self.scale != 1 else about


def _signed(items: tuple[str, ...]) -> str:
    text = " ".join(f"− {m[1:]}" if m.startswith("-") else f"+ {m}" for m in items)
    return text.removeprefix("+ ")


@cache
def declared() -> dict[str, Kpi]:
    """Every KPI by its id, in the order of importance within an objective."""
    import yaml

    kpis = {}
    for key, entry in yaml.safe_load(asset("catalogue.yaml")).items():
        entry |= {f: Text(**entry[f]) for f in ("name", "meaning", "pitfall")}
        lists = ("numerator", "denominator", "less", "objectives", "activities", "campaigns")
        entry |= {f: tuple(entry.get(f, ())) for f in lists}
        entry.setdefault("kind", "ratio" if entry["denominator"] else "additive")
        kpis[key] = Kpi(id=key, **entry)
    return kpis


def kpi(key: str) -> Kpi:
    """One KPI by its id; names with several meanings, such as ``conv_rate``, give the one of `ALIASES`."""
    require_known(ALIASES.get(key, key), declared(), f"There is no KPI {key!r}.")
    return declared()[ALIASES.get(key, key)]


class OfKpis(Framed):
    """A result that speaks of KPIs: its HTML names them and writes them in their units."""

    ways: ClassVar = {"kpi": kpi}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Catalogue(Result):
    """All KPIs, or some: sized, iterable, and by id as ``catalogue()["aov"]``."""

    kpis: tuple[Kpi, ...]
    language: str = "en"

    def __len__(self) -> int:
        return len(self.kpis)

    def __iter__(self) -> Iterator[Kpi]:
        return iter(self.kpis)

    def __contains__(self, key: object) -> bool:
        return key in self.kpis or ALIASES.get(str(key), key) in {k.id for k in self.kpis}

    def __getitem__(self, key: str) -> Kpi:
        return kpi(key)

    def to_frame(self) -> Any:
        import pandas as pd

        plain = ("id", "kind", "formula", "table", "unit", "direction", "group", "source")
        words = ("name", "meaning", "pitfall")
        told = ({f: getattr(k, f) for f in plain} | {f: getattr(k, f)[self.language] for f in words} for k in self)
        return pd.DataFrame(told)

    def sentence(self, language: str = "en") -> str:
        return say("catalogue.sentence", language, n=len(self))


def catalogue(language: str = "en") -> Catalogue:
    """Every KPI that the toolkit knows.

    >>> "open_rate" in catalogue(), catalogue()["open_rate"].name.vi
    (True, 'Tỷ lệ mở')
    """
    require(language in ("en", "vi"), f"language={language!r} is not known. Write en or vi.")
    return Catalogue(kpis=tuple(declared().values()), language=language)


def cost_per(conversion: str) -> Kpi:
    """Cost per conversion of one type: cost per purchase, per lead and per conversion are one KPI.

    >>> cost_per("purchase").id, cost_per("lead").id, cost_per("conversion").id
    ('cpa', 'cpl', 'cost_per_conv')
    """
    costs = {"purchase": "cpa", "lead": "cpl", "conversion": "cost_per_conv", "new_customer": "cac", "click": "cpc"}
    require_known(conversion, costs, f"conversion={conversion!r} is no type of conversion.")
    return kpi(costs[conversion])


class Suggestion(OfKpis):
    """Three to five KPIs for each group of channels, one row a group and KPI, most important first."""

    columns = ("group", "kpi")

    def sentence(self, language: str = "en") -> str:
        told = {"n": len(self.kpi), "groups": len(set(self.group))}
        return say("suggestion.sentence", language, objective=say(f"objective.{self.objective}", language), **told)


def suggest(objective: str, campaign_type: str = "") -> Suggestion:
    """Propose three to five KPIs for each group of channels that serves `objective`, for a type of campaign.

    KPIs of the objective come first, those that suit the campaign before the others; a group with fewer than three is
    filled from the objectives up the funnel, then from the rest. KPIs that can be bought (`vanity`) are left out.

    >>> suggest("leads", "acquisition").kpi[:3]
    ('visitor_lead_rate', 'conv_rate_click', 'conv_rate_session')
    """
    require_known(objective, UPSTREAM, f"objective={objective!r} is not one of {', '.join(UPSTREAM)}.")
    known = campaign_type in ("", *CAMPAIGN_TYPES)
    require(known, f"campaign_type={campaign_type!r} is not one of {', '.join(CAMPAIGN_TYPES)}.")
    chain: list[str] = [objective]
    while above := UPSTREAM[chain[-1]]:
        chain.append(above)
    mine: dict[str, list[tuple[int, bool, str]]] = {}
    for k in declared().values():
        if k.direction != "none" and not k.vanity:
            far = min((chain.index(o) for o in k.objectives if o in chain), default=len(chain))
            mine.setdefault(k.group, []).append((far, campaign_type not in k.campaigns, k.id))
    rows = []
    for group, scored in mine.items():
        own = sum(far == 0 for far, *_rest in scored)
        best = sorted(scored, key=lambda s: s[:2])[: min(max(own, 3), 5)]
        rows += [(group, key) for *_rest, key in best if own]
    return Suggestion.of(rows, objective=objective, campaign_type=campaign_type)


def page() -> str:
    """The catalogue as a Markdown page in both languages; ``data/KPIS.md`` holds it."""
    lines = [f"# {say('catalogue.title', 'en')} · {say('catalogue.title', 'vi')}", ""]
    lines += [say("catalogue.intro", "en", n=len(declared())), "", say("catalogue.intro", "vi", n=len(declared())), ""]
    for group in dict.fromkeys(k.group for k in declared().values()):
        lines += [f"## {say(f'group.{group}', 'en')} · {say(f'group.{group}', 'vi')}", ""]
        for k in (k for k in declared().values() if k.group == group):
            arrow = {"up": "↑", "down": "↓", "none": "◦"}[k.direction]
            lines += [f"- **`{k.id}`** {k.name.en} · {k.name.vi} ({k.kind}, {k.unit}, {arrow})",
                      f"  - `{k.formula}`, {k.table}" + (f"; {k.source}" if k.source else ""),
                      f"  - {k.meaning.en} {k.pitfall.en}", f"  - {k.meaning.vi} {k.pitfall.vi}"]  # fmt: skip
        lines += [""]
    return "\n".join(lines)
