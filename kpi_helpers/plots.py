"""One function a chart, and the way from a figure to themed SVG: text stays text, colours become variables."""

import hashlib
import html
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from kpi_helpers.result import money, month, number, percent, say

Axes = Any  # of matplotlib, which is heavy and comes when it is asked for

#: palette of charts.mplstyle -> custom property of style.css, so that one drawing serves light and dark
TOKENS = {
    "17212b": "ink", "56616e": "muted", "e3e7eb": "grid", "ffffff": "surface", "75808c": "grey",
    "0a5fa0": "blue", "b7d4ea": "blue-band", "dfecf6": "blue-haze", "b3500a": "orange",
    "0a7264": "teal", "6f3f98": "purple", "a51620": "red", "fbdcdc": "red-haze",
    "f8ebcd": "tet", "6b4804": "tet-ink",
}  # fmt: skip
INK, BLUE, HAZE, ORANGE, GREY = "#17212b", "#0a5fa0", "#dfecf6", "#b3500a", "#75808c"


def style() -> AbstractContextManager[None]:
    """Draw in the house style within the block."""
    import matplotlib as mpl

    return mpl.rc_context(fname=str(files("kpi_helpers").joinpath("charts.mplstyle")))


def new_axes(width: int, height: int) -> Axes:
    """Axes of a new figure of that many CSS pixels; nothing is registered with pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), layout="constrained").add_subplot()


def chart(draw: Callable[[Axes, bool], Any], *, title: str, note: str, alt: str) -> str:
    """Draw twice, 800 and 358 pixels wide, and emit both as one HTML figure.

    `draw` takes the axes and whether they are narrow. `note`: small print; `alt`: the same in words, with the numbers.
    """
    drawn = []
    with style():
        for kind, width, height in (("wide", 800, 372), ("narrow", 358, 300)):
            axes, buffer = new_axes(width, height), io.StringIO()
            draw(axes, kind == "narrow")
            axes.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
            drawn.append(_clean(buffer.getvalue(), kind=kind, alt=alt))
    caption = f"<figcaption>{html.escape(title)}<small>{html.escape(note)}</small></figcaption>"
    return f'<figure class="chart">{caption}{"".join(drawn)}</figure>'


def forecast(
    history: pd.Series, expected: pd.DataFrame, axes: Axes, narrow: bool = False, *, words: Sequence[str],
    language: str = "en", scale: float = 1.0,
) -> Axes:  # fmt: skip
    """Line of the history, forecast with its interval, and last year; `words` label them in the order of the lines."""
    from matplotlib.dates import AutoDateLocator, num2date
    from matplotlib.ticker import MaxNLocator

    keep = history.iloc[-(60 if narrow else 108) :]
    axes.plot(keep.index, keep / scale, color=INK)
    axes.fill_between(expected.index, expected["expected_low"] / scale, expected["expected_high"] / scale, color=HAZE)
    axes.plot(expected.index, expected["expected"] / scale, color=BLUE)
    axes.plot(expected.index, expected["last_year"] / scale, color=GREY, linestyle=(0, (3, 2)), linewidth=1.5)
    axes.set_ylim(0, 1.2 * max(keep.max(), expected["expected_high"].max()) / scale)
    near = keep.iloc[max((middle := len(keep) // 2) - 8, 0) : middle + 8].max() / scale
    _label(axes, keep.index[middle], near * 1.04, words[0], INK, va="bottom", ha="center")
    top, low = expected["expected_high"].max() / scale, expected["expected_low"].min() / scale
    _label(axes, expected.index[-1], top * 1.01, f"{words[1]}\n{words[2]}", BLUE, va="bottom", ha="right")
    _label(axes, expected.index[-1], low * 0.8, words[3], "#56616e", va="top", ha="right")
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=4 if narrow else 8))
    axes.xaxis.set_major_formatter(lambda x, _i: month(num2date(x), language))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    decimals = int(axes.get_ylim()[1] < 5)
    axes.yaxis.set_major_formatter(lambda y, _i: number(y, language, decimals=decimals))
    return axes


def bridge(
    axes: Axes, start: float, steps: Sequence[float], words: Sequence[str], told: Sequence[str], clear: Sequence[bool]
) -> Axes:
    """Waterfall from the value `start` by its `steps` to the next value; a step that is not `clear` is hollow.

    The two values are lines, since bars must begin at zero and would hide small steps.
    """
    levels, last = np.cumsum([start, *steps]), len(steps) + 1
    low, room = levels.min(), np.ptp(levels)
    axes.hlines(levels[[0, -1]], [-0.35, last - 0.35], [0.35, last + 0.35], color=INK, linewidth=3)
    axes.hlines(levels, np.arange(last) + 0.35, np.arange(last) + 0.65, color=GREY, linewidth=1)
    for i, step in enumerate(steps):
        fill = {"color": BLUE} if clear[i] else {"facecolor": "none", "edgecolor": GREY, "linewidth": 1.5}
        axes.bar(i + 1, step, width=0.7, bottom=levels[i], **fill)
    for i, top in enumerate([start, *np.maximum(levels[:-1], levels[1:]), levels[-1]]):
        _label(axes, i, top + 0.02 * room, told[i], INK, va="bottom", ha="center")
    axes.set_ylim(low - 0.05 * room, low + 1.2 * room)
    axes.set_xticks(range(last + 1), words)
    axes.yaxis.set_visible(False)
    return axes


def forest(
    axes: Axes, narrow: bool = False, *, words: Sequence[str], values: Sequence[float], low: Sequence[float],
    high: Sequence[float], clear: Sequence[bool], language: str = "en",
) -> Axes:  # fmt: skip
    """Estimates with their intervals, one below the other, in percent; filled where the interval leaves out zero.

    A bound without an end runs to the edge.
    """
    ends = [v for v in (*low, *high, 0.0) if np.isfinite(v)]
    room = 0.15 * np.ptp(ends)
    left, right = min(ends) - room, max(ends) + room
    for y, (value, first, last, filled) in enumerate(zip(values, low, high, clear, strict=True)):
        color = BLUE if filled else GREY
        axes.hlines(y, max(first, left) * 100, min(last, right) * 100, color=color, linewidth=2.5)
        axes.plot(value * 100, y, marker="o", markersize=8, color=color, markerfacecolor=color if filled else "white")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(words)), [textwrap.fill(w, 18 if narrow else 34) for w in words])
    axes.set_ylim(len(words) - 0.5, -0.5)
    axes.set_xlim(left * 100, right * 100)
    decimals = int(np.ptp(ends) < 0.04)
    axes.xaxis.set_major_formatter(lambda x, _i: number(x, language, decimals=decimals, sign=True) + "%")
    axes.grid(axis="y", visible=False)
    return axes


def looks(
    frame: pd.DataFrame, axes: Axes, narrow: bool = False, *, words: Sequence[str], scale: float, language: str
) -> Axes:
    """A difference day by day with its plain interval and the wider one that holds at every look."""
    from matplotlib.dates import AutoDateLocator, num2date

    shown, days = frame.replace([np.inf, -np.inf], np.nan), pd.to_datetime(frame["looked_at"])
    plain = shown.iloc[1:] if len(shown) > 2 else shown
    reach = 1.3 * np.nanmax(np.abs(plain[["low", "high"]].to_numpy())) / scale
    axes.fill_between(days, shown["valid_low"] / scale, shown["valid_high"] / scale, color=HAZE, alpha=0.6)
    axes.plot(days, shown["valid_low"] / scale, days, shown["valid_high"] / scale, color=GREY, linewidth=1)
    axes.vlines(days, shown["low"] / scale, shown["high"] / scale, color=ORANGE, linewidth=1.5 if narrow else 2.5)
    axes.plot(days, shown["difference"] / scale, color=BLUE, marker="o", markersize=4)
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_ylim(-reach, reach)
    for text, color, at in zip(words, (BLUE, ORANGE, GREY), (0.98, 0.91, 0.84), strict=True):
        axes.text(0.99, at, text, color=color, transform=axes.transAxes, ha="right", va="top")
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=4 if narrow else 8))
    axes.xaxis.set_major_formatter(
        lambda x, _i: f"{num2date(x):%d/%m}" if language == "vi" else f"{num2date(x):%-d %b}"
    )
    decimals = int(reach < 10)
    axes.yaxis.set_major_formatter(lambda y, _i: number(y, language, decimals=decimals, sign=True))
    return axes


def paired(axes: Axes, *, frame: pd.DataFrame, words: Sequence[str], language: str) -> Axes:
    """Mean `actual` and `predicted` purchases of each group of customers, side by side; the last group is open."""
    place, last = np.arange(len(frame)), len(frame) - 1
    for name, color, shift in (("actual", INK, -0.2), ("predicted", BLUE, 0.2)):
        axes.bar(place + shift, frame[name], width=0.38, color=color)
    for text, color, at in zip(words, (INK, BLUE), (0.96, 0.87), strict=False):
        axes.text(0.02, at, text, color=color, transform=axes.transAxes, va="top", fontweight="bold")
    axes.set_xticks(place, [f"{x}+" if i == last else str(x) for i, x in enumerate(frame.index)])
    axes.set_xlabel(words[2])
    axes.yaxis.set_major_formatter(lambda y, _i: number(y, language, decimals=int(axes.get_ylim()[1] < 5)))
    return axes


def tracked(
    frame: pd.DataFrame, axes: Axes, narrow: bool = False, *, split: Any, words: Sequence[str], language: str
) -> Axes:
    """What was seen and what was expected up to each day, with the day from which the model no longer knew."""
    from matplotlib.dates import AutoDateLocator, num2date

    days = pd.to_datetime(frame["day_at"])
    axes.plot(days, frame["actual"], color=INK)
    axes.plot(days, frame["expected"], color=BLUE, linestyle=(0, (4, 2)))
    for text, color, at in zip(words, (INK, BLUE), (0.96, 0.87), strict=False):
        axes.text(0.02, at, text, color=color, transform=axes.transAxes, va="top", fontweight="bold")
    if split:
        axes.axvline(pd.Timestamp(split), color=GREY, linewidth=1)
        axes.text(pd.Timestamp(split), 0.04, f" {words[2]}", color=GREY, transform=axes.get_xaxis_transform())
    axes.set_ylim(0)
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=4 if narrow else 8))
    axes.xaxis.set_major_formatter(lambda x, _i: month(num2date(x), language))
    axes.yaxis.set_major_formatter(lambda y, _i: number(y, language))
    return axes


def limited(frame: pd.DataFrame, axes: Axes, *, limit: float, word: str, language: str) -> Axes:
    """A share by period with its interval and its limit; periods in `alarm` are marked."""
    from matplotlib.dates import AutoDateLocator, num2date
    from matplotlib.ticker import MaxNLocator

    f = frame.assign(period=pd.to_datetime(frame["period"]))
    ends = np.array([*f["low"], *f["high"], limit]) * 100
    least, room = ends.min(), 0.15 * (np.ptp(ends) or 1)
    axes.set_ylim(max(least - room, 0), ends.max() + room)
    axes.axhspan(limit * 100, axes.get_ylim()[1], color="#fbdcdc", alpha=0.6, linewidth=0)
    axes.axhline(limit * 100, color="#a51620", linestyle=(0, (3, 2)), linewidth=1.5)
    axes.fill_between(f["period"], f["low"] * 100, f["high"] * 100, color="#b7d4ea")
    axes.plot(f["period"], f["value"] * 100, color=BLUE, marker="o" if len(f) < 30 else "")
    alarm = f[f["alarm"]]
    axes.plot(alarm["period"], alarm["value"] * 100, linestyle="", marker="o", markersize=4, color="#a51620")
    _label(axes, f["period"].iloc[0], limit * 100 + room / 5, word, "#a51620", va="bottom")
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=5))
    written = "%d/%m" if language == "vi" else "%-d %b"
    axes.xaxis.set_major_formatter(lambda x, _i: num2date(x).strftime(written))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_formatter(lambda y, _i: number(y, language) + "%")
    return axes


def steps(axes: Axes, frame: pd.DataFrame, language: str) -> Axes:
    """Survival of up to five groups with their bands, in percent, each named at its end."""
    heights: list[float] = []
    end = frame["time"].max() or 1
    colors = (BLUE, ORANGE, "#0a7264", "#6f3f98", GREY)
    for (group, rows), color in zip(list(frame.groupby("group", sort=False))[:5], colors, strict=False):
        at = np.array([0.0, *rows["time"]])
        level, low, high = (np.array([1.0, *rows[c]]) * 100 for c in ("survival", "low", "high"))
        axes.fill_between(at, low, high, step="post", color=color, alpha=0.15, linewidth=0)
        axes.step(at, level, where="post", color=color)
        heights.append(next(y for y in np.arange(level[-1], 200) if all(abs(y - other) >= 7 for other in heights)))
        axes.text(at[-1] + 0.01 * end, heights[-1], group, color=color, fontsize=12, va="center")
    axes.set(xlim=(0, end), ylim=(0, 105))
    axes.yaxis.set_major_formatter(lambda y, _i: number(y, language) + "%" if y <= 100 else "")
    return axes


def profit_curve(r: Any, language: str) -> str:
    """Profit by share contacted as an HTML figure; the best share and its profit are marked."""

    def draw(axes: Axes, _narrow: bool) -> None:
        x, best = r.frame["share"] * 100, r.best_share * 100
        axes.plot(x, r.frame["profit"], color=BLUE)
        axes.plot(best, r.total, marker="o", markersize=8, color=ORANGE)
        _label(axes, best, r.total, f" {percent(r.best_share, language)}", ORANGE, va="bottom")
        axes.axhline(0, color=INK, linewidth=1)
        axes.xaxis.set_major_formatter(lambda v, _i: f"{v:.0f}%")
        axes.yaxis.set_major_formatter(lambda v, _i: money(v, language, r.currency))

    title, note = (say(f"campaign_profit.{key}", language) for key in ("title", "note"))
    return chart(draw, title=title, note=note, alt=r.sentence(language))


def lifecycle(frame: pd.DataFrame, axes: Axes, narrow: bool = False, *, words: Sequence[str], language: str) -> Axes:
    """Customers of each period by state, one bar upon the other, and below zero those who stayed away."""
    shown = frame.iloc[-(12 if narrow else 24) :]
    states, colors = ("current", "resurrected", "new", "dormant"), (BLUE, "#0a7264", "#b7d4ea", GREY)
    base = np.zeros(len(shown))
    for state, word, color in zip(states, words, colors, strict=True):
        height = shown[state] * (-1 if state == "dormant" else 1)
        axes.bar(
            range(len(shown)), height, bottom=0 if state == "dormant" else base, color=color, label=word, width=0.8
        )
        base = base + height
    each = range(0, len(shown), 3)
    written = "%m/%y" if all(d.day == 1 for d in shown["period"]) else "%d/%m"
    axes.set_xticks(each, [f"{shown['period'].iloc[i]:{written}}" for i in each])
    axes.axhline(0, color=INK, linewidth=1)
    axes.yaxis.set_major_formatter(lambda y, _i: number(abs(y), language))
    axes.figure.legend(loc="outside upper left", ncols=2 if narrow else 4)
    return axes


def heatmap(frame: pd.DataFrame, axes: Axes, narrow: bool = False, *, language: str) -> Axes:
    """Shares of a square or oblong table, darker where larger, each written in its cell."""
    from matplotlib.colors import LinearSegmentedColormap

    values = frame.to_numpy(float)
    axes.imshow(values, cmap=LinearSegmentedColormap.from_list("blues", ["#ffffff", "#b7d4ea"]), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and value >= 0.005:
            axes.text(
                column, row, percent(value, language, decimals=0), ha="center", va="center", size=7 if narrow else 10
            )
    axes.set_xticks(
        range(values.shape[1]), frame.columns, rotation=90 if narrow else 30, ha="center" if narrow else "right"
    )
    axes.set_yticks(range(values.shape[0]), frame.index)
    axes.grid(visible=False)
    return axes


def week(
    axes: Axes, narrow: bool, raw: Any, mean: Any, clear: Any, *, weekdays: Sequence[str], panels: Sequence[str],
    language: str,
) -> Axes:  # fmt: skip
    """Rates of the hours of a week (7, 24) twice, as counted and shrunk, in one scale; a dot marks the `clear` ones."""
    from matplotlib.colors import LinearSegmentedColormap

    blues = LinearSegmentedColormap.from_list("blues", ["#ffffff", "#b7d4ea", "#0a5fa0"])
    both = np.vstack([raw, np.full((1, 24), np.nan), mean])
    shown = axes.imshow(both, cmap=blues, aspect="auto", vmin=0)
    for row, hour in np.argwhere(clear > 0):
        axes.plot(hour, row + 8, marker="o", markersize=3 if narrow else 5, color="white", markeredgecolor=INK)
    axes.set_xticks(range(0, 24, 3), [f"{h}h" for h in range(0, 24, 3)])
    axes.set_yticks([*range(7), *range(8, 15)], [*weekdays, *weekdays], fontsize=9 if narrow else 11)
    for row, words in zip((-0.6, 7.4), panels, strict=True):
        axes.text(-0.5, row, words, va="bottom", fontsize=9 if narrow else 11, color=INK)
    axes.grid(visible=False)
    bar = axes.figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.yaxis.set_major_formatter(lambda v, _i: percent(v, language, decimals=0))
    return axes


def spread(
    shares: pd.DataFrame,
    axes: Axes,
    narrow: bool = False,
    *,
    marked: Mapping[str, str],
    words: Sequence[str],
    language: str,
) -> Axes:
    """Shares (channels by models): a line from the least to the greatest, a dot a model, `marked` models in colours."""
    for y, (_channel, row) in enumerate(shares.iterrows()):
        axes.hlines(y, row.min() * 100, row.max() * 100, color="#b7d4ea", linewidth=6)
        axes.plot(row * 100, [y] * len(row), linestyle="", marker="o", markersize=4, color=GREY)
    for (model, color), word in zip(marked.items(), words, strict=True):
        axes.plot(
            shares[model] * 100, range(len(shares)), linestyle="", marker="o", markersize=9, color=color, label=word
        )
    axes.set_yticks(range(len(shares)), shares.index)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(left=-1)
    axes.xaxis.set_major_formatter(lambda x, _i: number(x, language) + "%")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")
    return axes


def drawn_bridge(
    r: Any, language: str, told: Mapping[str, str], steps: Sequence[float], numbers: Sequence[str], clear: list[bool]
) -> str:
    """The bridge from the value before to the one after by its `steps`, as an HTML figure; `numbers` label the bars."""
    words, title, note = (say(f"{r.name}.{key}", language, **told) for key in ("bars", "title", "bridge"))
    bars, alt = (r.before, steps, words.split("|"), numbers, clear), r.sentence(language)
    return chart(lambda axes, _narrow: bridge(axes, *bars), title=title, note=note, alt=alt)


def formula(tex: str) -> str:
    """A formula as SVG, drawn by matplotlib, so that it reads offline; its TeX is the alternative text."""
    from matplotlib.mathtext import math_to_image

    buffer = io.StringIO()
    with style():
        math_to_image(f"${tex}$", buffer, format="svg")
    svg = _clean(buffer.getvalue(), kind="formula", alt=tex)
    width = float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0]) / 11
    return svg.replace("<svg ", f'<svg style="width:{width:.2f}em" ', 1)


def _label(axes: Axes, x: Any, y: float, text: str, color: str, **align: Any) -> None:
    axes.annotate(text, (x, y), color=color, fontsize=12, fontweight="bold" if color == BLUE else "normal", **align)


def _clean(svg: str, *, kind: str, alt: str) -> str:
    """Inline SVG without ids that clash, styles or metadata; sizes from the page, colours as variables."""
    box = re.findall(r'viewBox="([^"]+)"', svg)[0]
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    # ids by content: the same mark in two charts may share one definition, different marks never do
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{kind}-{m[1]}"' if m[1] in used else "", svg)
    svg = svg.replace("url(#", f"url(#{kind}-").replace('xlink:href="#', f'href="#{kind}-')
    opening = f'<svg class="{kind}" viewBox="{box}" role="img" aria-label="{html.escape(alt)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _m: opening, svg, count=1)
    svg = re.sub(r"font: (\d+) ([\d.]+)px [^;\"]+", r"font-size: \2px; font-weight: \1", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    svg = re.sub(r"<(?!svg)[^>]+>", lambda m: _colours(m[0]), svg)  # tags only: a label may read 11.11
    for ident, held in re.findall(r'<clipPath id="([^"]+)">(.*?)</clipPath>', svg, re.S):  # drawn from exact numbers
        svg = svg.replace(ident, f"{kind}-{hashlib.md5(held.encode()).hexdigest()[:10]}")
    return re.sub(r"\n\s*", "\n", svg).strip()


def _colours(tag: str) -> str:
    """A tag with its numbers to one decimal and its colours as variables."""
    tag = re.sub(r"(?<![#\w.])-?\d+\.\d{2,}", lambda m: f"{float(m[0]):.1f}", tag)
    return re.sub(rf"(?i)#({'|'.join(TOKENS)})\b", lambda m: f"var(--{TOKENS[m[1].lower()]}, {m[0]})", tag)
