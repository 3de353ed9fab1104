"""What every answer can do: say itself in English and Vietnamese, as table, sentence, HTML and JSON."""

import html
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

JSON_MIME = "application/vnd.kpi-helpers.result+json"
HTML_MIME = "application/vnd.kpi-helpers.html+json"
LANGUAGES = ("en", "vi")
#: bounds of grades and statuses, which a rounded chance must not step over
BOUNDS = ("5%", "10%", "20%", "40%", "50%", "80%")
NBSP, MINUS = "\u00a0", "\u2212"


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
    """A sentence or label of ``words.yaml``, filled in.

    >>> say("status.safe", "vi"), say("index.failed", n=2)
    ('An toàn', 'Failed: 2.')
    """
    return _words()[key][language].format(**told)


def session_language() -> str:
    """Language of what is shown on a screen: ``KPI_LANGUAGE=vi``, else English."""
    return "vi" if os.environ.get("KPI_LANGUAGE", "en").lower().startswith("vi") else "en"


def number(value: float | None, language: str = "en", *, decimals: int = 0, sign: bool = False) -> str:
    """Write a number, rounding halves away from zero; nothing at all is a dash.

    >>> number(49300.5), number(-1234567.891, "vi", decimals=2)
    ('49,301', '−1.234.567,89')
    """
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
    """Write a fraction as a percentage.

    >>> percent(0.0345, "vi"), percent(0.0345), percent(0.1, decimals=0, sign=True)
    ('3,5%', '3.5%', '+10%')
    """
    if share is None or not math.isfinite(share):
        return "–"
    return number(float(Decimal(repr(float(share))) * 100), language, decimals=decimals, sign=sign) + "%"


def probability(chance: float | None, language: str = "en") -> str:
    """Write a probability in whole percent; never 0% or 100%.

    >>> probability(0.004), probability(0.653), probability(0.9999)
    ('<1%', '65%', '>99%')
    """
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
    """Write an uplift as it was set: whole percent, or one decimal where it has one.

    >>> uplift(0.1), uplift(0.125, "vi"), uplift(0.1, sign=False)
    ('+10%', '+12,5%', '10%')
    """
    decimals = 0 if math.isclose(share * 100, round(share * 100), abs_tol=0.05) else 1
    return percent(share, language, decimals=decimals, sign=sign)


def money(value: float | None, language: str = "en", currency: str = "VND") -> str:
    """Write money with the words that the language uses for large sums.

    >>> money(11_900_000_000), money(11_900_000_000, "vi"), money(38600, "vi")
    ('₫11.9\\xa0bn', '11,9\\xa0tỷ\\xa0₫', '38.600\\xa0₫')
    """
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
    """Write a value of a KPI in its `unit`: ``count``, ``money``, ``share`` or ``ratio``.

    >>> measure(0.0231, "share"), measure(3950, "count"), measure(3.94, "ratio", "vi")
    ('2.31%', '3,950', '3,94')
    """
    if unit == "money":
        return money(value, language, currency)
    if unit == "share":
        return percent(value, language, decimals=2 if value is not None and abs(value) < 0.1 else 1)
    return number(value, language, decimals=2 if unit == "ratio" else 0)


def span(low: float, high: float, unit: str, language: str = "en", currency: str = "VND") -> str:
    """Write a range for a tight cell, its unit once; the value beside it names the currency.

    >>> span(0.0228, 0.0234, "share"), span(22.8e9, 25.6e9, "money", "vi")
    ('2.28–2.34%', '22,8–25,6\\xa0tỷ')
    """
    if not math.isfinite(low + high):
        return "–"
    ends = [re.sub(rf"[₫€$]|{NBSP}?[A-Z]{{3}}{NBSP}?", "", measure(v, unit, language, currency)) for v in (low, high)]
    first, last = (end.strip(NBSP) for end in ends)
    tail = re.search(r"[^\d.,]*$", last)
    return f"{first.removesuffix(tail[0]) if tail else first}–{last}"


def one_unit(largest: float, unit: str, currency: str, language: str) -> tuple[float, str]:
    """One unit for a whole table or chart, and the words that name it.

    >>> one_unit(2.4e9, "money", "VND", "en")
    (1000000.0, 'Unit: million VND.')
    """
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
    """HTML table in the house style; the first cell of a row names it, cells may hold HTML.

    `kind` is ``stack`` (cards on a phone) or ``tight``; `numeric` are the columns aligned to the right.
    """
    scope = [' class="n"' if i in numeric else "" for i in range(len(head))]
    heads = "".join(f'<th scope="col" role="columnheader"{scope[i]}>{label}</th>' for i, label in enumerate(head))
    body = ['<tr role="row">' + _cells(row, head, numeric) + "</tr>" for row in rows]
    foot = f'<tfoot role="rowgroup">{body.pop()}</tfoot>' if total else ""
    small = f"<small>{note}</small>" if note else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(caption)}">'
        f'<table class="{kind}" role="table"><caption>{html.escape(caption)}{small}</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(body)}</tbody>{foot}</table></div>'
    )


def _cells(row: Sequence[str], head: Sequence[str], numeric: Sequence[int]) -> str:
    cells = [f'<th scope="row" role="rowheader">{row[0]}</th>']
    for i, cell in enumerate(row[1:], start=1):
        kind = ' class="n"' if i in numeric else ' class="w graded"' if "odds" in cell else ""
        cells.append(f'<td role="cell"{kind} data-label="{html.escape(head[i])}">{cell}</td>')
    return "".join(cells)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result(ABC):
    """Base of every answer: a frozen record that shows itself and never computes.

    Fields that are tuples are the columns of its table; the others hold for the whole of it.
    Displaying it in a notebook also emits its JSON, which the runner collects into ``results.json``.
    """

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

        values = {f.name: getattr(self, f.name) for f in fields(self)}
        columns = {k: list(v) for k, v in values.items() if isinstance(v, tuple)}
        scalars = {k: v for k, v in values.items() if k not in columns}
        return pd.DataFrame(columns).assign(**scalars) if columns else pd.DataFrame([scalars])

    def to_json(self) -> dict[str, Any]:
        """Return name, sentence in both languages and rows, ready for ``json.dumps``."""
        said = {language: plain(self.sentence(language)) for language in LANGUAGES}
        rows = [{k: json_value(v) for k, v in row.items()} for row in self.to_frame().to_dict("records")]
        return {"name": self.name, "sentence": said, "rows": rows}

    def html(self, language: str = "en") -> str:
        """HTML of the answer as it stands in a report: its sentence, where it has no table or chart."""
        return f"<p>{html.escape(self.sentence(language))}</p>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        made = {language: self.html(language) for language in LANGUAGES}
        # a screen has neither the style sheet of a report nor its icons: one drawing, no icons
        screen = re.sub(r'<svg class="(?:narrow|icon)".*?</svg>', "", made[session_language()], flags=re.DOTALL)
        said = plain(self.sentence(session_language()))
        return {"text/plain": said, "text/html": screen, HTML_MIME: made, JSON_MIME: self.to_json()}

    def __repr__(self) -> str:
        return plain(self.sentence(session_language()))


def json_value(value: Any) -> Any:
    """Value for JSON: 12 significant digits, so that another processor writes the same; no NaN."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.12g}") if math.isfinite(value) else None
    if isinstance(value, date):
        return value.isoformat()[:10]
    return value


def plain(text: str) -> str:
    """Text without tags and with ordinary spaces.

    >>> plain("<b>49,300</b> orders, <1%")
    '49,300 orders, <1%'
    """
    return html.unescape(re.sub(r"</?[a-z][^>]*>", "", text)).replace(NBSP, " ")


def dump(data: Any) -> str:
    """JSON text that is the same for the same data."""
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
