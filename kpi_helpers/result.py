"""What every answer can do: say itself in English and Vietnamese, as table, sentence, HTML and JSON."""

import html
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

if TYPE_CHECKING:
    import pandas as pd

JSON_MIME = "application/vnd.kpi-helpers.result+json"
HTML_MIME = "application/vnd.kpi-helpers.html+json"
LANGUAGES = ("en", "vi")
#: bounds of grades and statuses, which a rounded chance must not step over
BOUNDS = ("5%", "10%", "20%", "40%", "50%", "80%")
NBSP, MINUS = "\u00a0", "\u2212"
KEPT = "\x1f"  # stands in a template's text for the ends of lines that are not its own


class Text(NamedTuple):
    """The same words in both languages."""

    en: str
    vi: str

    def __getitem__(self, language: Any) -> Any:  # text["vi"] beside text[1]
        return getattr(self, language) if isinstance(language, str) else tuple(self)[language]


#: status -> tone of its pill; five tones, no sixth. The words stand in words.yaml.
TONES = {
    "safe": "good", "stretch": "calm", "ambitious": "watch", "unrealistic": "bad",
    "on track": "good", "at risk": "watch", "behind": "bad",
    "too close to call": "none", "not enough data": "none",
}  # fmt: skip


@cache
def asset(name: str) -> str:
    """Text of a file that stands beside the modules."""
    return files("kpi_helpers").joinpath(name).read_text("utf-8")


@cache
def _words() -> dict[str, dict[str, str]]:
    import yaml

    words: dict[str, dict[str, str]] = yaml.safe_load(asset("words.yaml"))
    return words


def say(key: str, language: str = "en", **told: object) -> str:
    """A sentence or label of ``words.yaml``, filled in: ``say("index.failed", n=2)`` is "Failed: 2."."""
    return _words()[key][language].format(**told)


def session_language() -> str:
    """Language of what is shown on a screen: ``KPI_LANGUAGE=vi``, else English."""
    return "vi" if os.environ.get("KPI_LANGUAGE", "en").lower().startswith("vi") else "en"


def number(value: float | None, language: str = "en", *, decimals: int = 0, sign: bool = False) -> str:
    """Write a number, rounding halves away from zero (49300.5: 49,301, 49.301); nothing at all is a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    rounded = Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    text = f"{abs(rounded):,.{decimals}f}"
    if language == "vi":
        text = text.translate(str.maketrans(",.", ".,"))
    return (MINUS if rounded < 0 else "+" if sign and rounded > 0 else "") + text


def both_say(key: str, **told: Any) -> Text:
    """A sentence in both languages; whole numbers and `Text` among `told` are written as each language does."""

    def fill(v: Any, lang: str) -> Any:
        return v[lang] if isinstance(v, Text) else number(v, lang) if isinstance(v, int) else v

    return Text(*(say(key, lang, **{k: fill(v, lang) for k, v in told.items()}) for lang in LANGUAGES))


def percent(share: float | None, language: str = "en", *, decimals: int = 1, sign: bool = False) -> str:
    """Write a fraction as a percentage: 0.0345 is 3.5%, in Vietnamese 3,5%."""
    if share is None or not math.isfinite(share):
        return "–"
    return number(float(Decimal(repr(float(share))) * 100), language, decimals=decimals, sign=sign) + "%"


def probability(chance: float | None, language: str = "en") -> str:
    """Write a probability in whole percent; never 0% or 100%: 0.004 is <1%, 0.653 is 65%, 0.9999 is >99%."""
    if chance is None or not math.isfinite(chance):
        return "–"
    if chance < 0.01:
        return "<1%"
    if chance > 0.99:
        return ">99%"
    whole = percent(chance, language, decimals=0)
    if whole in BOUNDS and float(whole[:-1]) / 100 > chance:  # 49.9% is graded below 50%, so it is not shown as 50%
        whole = f"{int(whole[:-1]) - 1}%"
    return whole


def uplift(share: float, language: str = "en", *, sign: bool = True) -> str:
    """Write an uplift as it was set: whole percent (+10%), or one decimal where it has one (+12.5%)."""
    decimals = 0 if math.isclose(share * 100, round(share * 100), abs_tol=0.05) else 1
    return percent(share, language, decimals=decimals, sign=sign)


def money(value: float | None, language: str = "en", currency: str = "VND") -> str:
    """Write money with the words that the language uses for large sums: ₫11.9 bn, 11,9 tỷ ₫."""
    if value is None or not math.isfinite(value):
        return "–"
    symbol = {"VND": "₫", "EUR": "€", "USD": "$", "": ""}.get(currency, currency + NBSP)  # "" is not known
    small = 0 if currency == "VND" or abs(value) >= 1000 else 2
    # from where the next smaller way of writing it would round up to the word
    for least, size, word in ((999.95e6, 1e9, Text("bn", "tỷ")), (999_999.5, 1e6, Text("m", "triệu"))):
        if abs(value) >= least:
            text = number(abs(value) / size, language, decimals=1) + NBSP + word[language]
            break
    else:
        text = number(abs(value), language, decimals=small)
    minus = MINUS if value < 0 and text.strip("0,.") else ""
    return minus + (f"{text}{NBSP}{symbol.strip()}".rstrip() if language == "vi" else symbol + text)


def day(value: date | None, language: str = "en") -> str:
    """Write a date: 22 Nov 2026, 22/11/2026."""
    if value is None:
        return "–"
    return f"{value:%d/%m/%Y}" if language == "vi" else f"{value.day} {value:%b %Y}"


def month(value: date, language: str = "en") -> str:
    """Write a month: Nov 2026, Th11/2026."""
    return f"Th{value.month}/{value.year}" if language == "vi" else f"{value:%b %Y}"


def measure(value: float | None, unit: str, language: str = "en", currency: str = "VND") -> str:
    """Write a value of a KPI in its `unit`, one of those that ``catalogue.yaml`` lists (0.0231 as share: 2.31%)."""
    if unit == "money":
        return money(value, language, currency)
    if unit in ("share", "part"):
        return percent(value, language, decimals=2 if value is not None and abs(value) < 0.1 else 1)
    if unit in ("change", "pp") and value is not None and math.isfinite(value):
        return percent(value, language, sign=True).replace("%", say("unit.pp", language) if unit == "pp" else "%")
    text = number(value, language, decimals={"ratio": 2, "points": 1, "days": 1}.get(unit, 0))
    return text + NBSP + say(f"unit.{unit}", language) if unit in ("days", "seconds") else text


def span(low: float, high: float, unit: str, language: str = "en", currency: str = "VND") -> str:
    """Write a range for a tight cell, its unit once (2.28–2.34%); the value beside it names the currency."""
    if not math.isfinite(low + high):
        return "–"
    ends = [re.sub(rf"[₫€$]|{NBSP}?[A-Z]{{3}}{NBSP}?", "", measure(v, unit, language, currency)) for v in (low, high)]
    first, last = (end.strip(NBSP) for end in ends)
    if unit in ("change", "pp") or first.startswith(MINUS):  # signs and a dash do not go together
        return say("change.range", language, low=first, high=last)
    tail = re.search(r"[^\d.,]*$", last)
    return f"{first.removesuffix(tail[0]) if tail else first}–{last}"


def one_unit(largest: float, unit: str, currency: str, language: str) -> tuple[float, str]:
    """One unit for a whole table or chart, and the words that name it: 1e6 and "Unit: million VND."."""
    million, named = unit == "money" and largest >= 1e8, unit == "money" and currency != ""
    key = ("million" if named else "unnamed million") if million else ("one" if named else "none")
    return (1e6 if million else 1.0), say(f"unit.{key}", language, currency=currency)


def pill(status: str, language: str) -> str:
    """HTML of a status: shape, word and colour."""
    return labelled_pill(TONES[status], say(f"status.{status}", language))


def labelled_pill(tone: str, words: str) -> str:
    """HTML of a pill with words of its own."""
    icon = f'<svg class="icon" aria-hidden="true"><use href="#i-{tone}"/></svg>'
    return f'<span class="pill {tone}">{icon}{words}</span>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, note: str = "", kind: str = "stack",
    total: bool = False, numeric: Sequence[int] = (),
) -> str:  # fmt: skip
    """HTML table: `kind` is ``stack`` (cards on a phone) or ``tight``, `numeric` are columns aligned to the right."""
    return str(_templates().module.grid(head, rows, caption, note, kind, total, numeric))


def _table_of_lines(told: Mapping[str, Any], text: str, *, heads: str = "", caption: str = "", **how: Any) -> str:
    """A table as a template writes it: a row a line, cells between bars; see ``results.html.j2``."""
    r, language = told["r"], told["language"]
    head = (heads or say(f"{r.name}.heads", language)).split("|")
    rows = [[cell.strip(" ") for cell in line.split("|")] for line in text.split("\n") if line.strip(" ")]
    caption = caption or r.sentence(language)
    return table(head, rows, caption=caption, **how) if rows else f"<p>{html.escape(caption)}</p>"


@cache
def _templates() -> Any:
    import jinja2

    made = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)
    made.filters["inline"] = lambda text: re.sub(r"\s*\n\s*", "", text)  # a macro within a cell
    made.filters |= {
        "table": jinja2.pass_context(_table_of_lines),
        "abs": abs,
        "kept": lambda text: text.replace("\n", KEPT),
    }
    made.filters["e"] = lambda text: html.escape(text).replace("\n", KEPT).replace("|", "&#124;")
    made.tests["finite"] = math.isfinite
    made.globals |= {"zip": zip, "tone": TONES.get, "labelled_pill": labelled_pill}
    made.globals |= {"small": "<small>{}</small>".format, "whole": "{:.0%}".format}
    return made.from_string(asset("results.html.j2"))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result(ABC):
    """Base of every answer: a frozen record that shows itself and never computes.

    Fields that are tuples are the columns of its table; the others hold for the whole of it; those named in `aside`
    are not in it. Its HTML is the macro of its name in ``results.html.j2``, which may call `ways` too.
    Displaying it in a notebook also emits its JSON, which the runner collects into ``results.json``.
    """

    aside: ClassVar[tuple[str, ...]] = ()
    digits: ClassVar[int] = 12  # of a number in its JSON; fewer where a search ends a little elsewhere
    ways: ClassVar[Mapping[str, Any]] = {}

    @property
    def name(self) -> str:
        """Name in ``results.json``: the class in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def sentence(self, language: str = "en") -> str:
        """Say the answer in one sentence; each result says its own."""

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a DataFrame, one column a field."""
        import pandas as pd

        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.aside}
        columns = {k: list(v) for k, v in values.items() if isinstance(v, tuple)}
        scalars = {k: v for k, v in values.items() if k not in columns}
        return pd.DataFrame(columns).assign(**scalars) if columns else pd.DataFrame([scalars])

    def to_json(self) -> dict[str, Any]:
        """Return name, sentence in both languages and rows, ready for ``json.dumps``."""
        said = {language: plain(self.sentence(language)) for language in LANGUAGES}
        rows = [{k: json_value(v, self.digits) for k, v in row.items()} for row in self.to_frame().to_dict("records")]
        return {"name": self.name, "sentence": said, "rows": rows}

    def html(self, language: str = "en") -> str:
        """HTML of the answer as it stands in a report: its sentence, where it has no table or chart."""
        spoken = (say, number, percent, probability, uplift, day, month, pill)
        told: dict[str, Any] = {f.__name__: partial(f, language=language) for f in spoken}
        currency = getattr(self, "currency", "")
        told |= {f.__name__: partial(f, language=language, currency=currency) for f in (measure, span)}
        rows = self.frame if isinstance(self, Framed) else self.to_frame()
        told |= {"r": self, "rows": list(rows.itertuples()), "language": language, **self.ways}
        macros = _templates().make_module(told)
        text = getattr(macros, self.name, macros.said)()
        return re.sub(" *\n *", "", text).replace(KEPT, "\n")

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        made = {language: self.html(language) for language in LANGUAGES}
        # a screen has neither the style sheet of a report nor its icons: one drawing, no icons
        screen = re.sub(r'<svg class="(?:narrow|icon)".*?</svg>', "", made[session_language()], flags=re.DOTALL)
        said = plain(self.sentence(session_language()))
        return {"text/plain": said, "text/html": screen, HTML_MIME: made, JSON_MIME: self.to_json()}

    def __repr__(self) -> str:
        return plain(self.sentence(session_language()))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Framed(Result):
    """A result whose rows are a `frame`; its columns are attributes too, and so is what holds for the `whole` of it."""

    frame: "pd.DataFrame"
    whole: Mapping[str, Any]

    columns: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]], **whole: Any) -> Self:
        """The answer made of `rows`, each with the fields that the class names as its `columns`."""
        import pandas as pd

        return cls(frame=pd.DataFrame(list(rows), columns=list(cls.columns)), whole=whole)

    def __getattr__(self, name: str) -> Any:
        if name in ("frame", "whole") or not (name in self.whole or name in self.frame):
            raise AttributeError(name)
        return self.whole[name] if name in self.whole else tuple(self.frame[name].tolist())

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows and what holds for each of them, without what is `aside`."""
        told = self.frame.assign(**{name: v for name, v in self.whole.items() if name not in self.aside})
        return told.drop(columns=[name for name in self.aside if name in told])


def json_value(value: Any, digits: int = 12) -> Any:
    """Value for JSON: so many significant digits, so that another processor writes the same; no NaN."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, date):
        return value.isoformat()[:10]
    return value


def plain(text: str) -> str:
    """Text without tags and with ordinary spaces."""
    return html.unescape(re.sub(r"</?[a-z][^>]*>", "", text)).replace(NBSP, " ")


def dump(data: Any) -> str:
    """JSON text that is the same for the same data."""
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
