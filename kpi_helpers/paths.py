"""Paths of channels before a conversion, as counts: what every model of attribution needs of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kpi_helpers.errors import require, require_known
from kpi_helpers.stats import Floats
from kpi_helpers.units import as_table

MOST_CHANNELS = 62  # a set of channels is one whole number of 64 bits
BEGUN, CONVERTED, LEFT = 0, -1, -2  # beside channels: what a step may be
BASELINE = "baseline"  # of conversions that no channel earns
DIRECT = ("direct", "(direct)", "(none)", "(direct) / (none)", "direct / none", "trực tiếp")
Ints = np.ndarray[Any, np.dtype[np.int64]]


class Touches(NamedTuple):
    """Touches before conversions, of which a rule makes weights: columns of numpy or of the engine alike.

    `position` counts from 1 to `length`; `closer` is the position of the last touch that is not direct; `age_days` the
    time until the conversion (None where it is not known); `where` chooses (condition, then, else).
    """

    position: Any
    length: Any
    closer: Any
    age_days: Any
    where: Callable[[Any, Any, Any], Any]


Rule = Callable[[Touches], Any]


class Steps(NamedTuple):
    """Steps of journeys, counted: arrays of one length.

    `state`: the last channels up to the order, digits of the base `n_channels` + 1, the newest last; `then`: the next
    channel, or CONVERTED, LEFT, or BEGUN for journeys that begin in the state; `n` of them, `value` of those won.
    """

    state: Ints
    then: Ints
    n: Floats
    value: Floats
    group: Ints
    order: int
    n_channels: int

    def without(self, group: int) -> "Steps":
        """The same without one group of people; -1 leaves none out."""
        keep = self.group != group
        return self._replace(**{name: getattr(self, name)[keep] for name in self._fields[:5]})


@dataclass(frozen=True, kw_only=True, eq=False)
class Journeys(ABC):
    """Journeys over `channels`, each of which ends with a conversion or not; see `from_paths` and `read_journeys`.

    Totals: `conversions` and their `value`, `untouched` those without any touch, `nulls` journeys that did not convert;
    `sample`, people with a touch (journeys, where people are not known), of whom groups are made. `view_credit`: what
    a view weighs beside a click in rules that share credit out; chains and sets count it as a touch.
    """

    channels: tuple[str, ...]
    conversions: float
    value: float
    nulls: float
    sample: int
    untouched: float = 0.0
    untouched_value: float = 0.0
    currency: str = ""
    timed: bool = False
    people: int | None = None
    view_credit: float = 1.0
    issues: Mapping[str, int] = field(default_factory=dict)

    @property
    def touched(self) -> Floats:
        """Conversions that had a touch, and their value."""
        return np.array([self.conversions - self.untouched, self.value - self.untouched_value])

    @abstractmethod
    def credit(self, rules: Mapping[str, Rule], groups: int = 1) -> dict[str, Floats]:
        """Conversions and value that each rule credits, (groups, channels, 2)."""

    @abstractmethod
    def steps(self, order: int = 1, groups: int = 1) -> Steps:
        """Steps between states of the last `order` channels."""

    @abstractmethod
    def shared(self, groups: int = 1) -> Floats:
        """Conversions and value, split evenly between the different channels of a journey (groups, channels, 2)."""

    @abstractmethod
    def won(self) -> "PathTable":
        """The different paths that converted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PathTable(Journeys):
    """Journeys as a table of paths: channels of path i are `codes[begins[i]:begins[i + 1]]`, counted from 1."""

    codes: Ints
    begins: Ints
    won_by_path: Floats
    value_by_path: Floats
    lost_by_path: Floats

    @cached_property
    def sets(self) -> Ints:
        """Channels of each path, a bit each."""
        found: Ints = np.bitwise_or.reduceat(np.int64(1) << (self.codes - 1), self.begins[:-1])
        return found

    @property
    def last(self) -> Ints:
        """Last channel of each path."""
        return self.codes[self.begins[1:] - 1]

    def met(self) -> Floats:
        """Conversions in which a channel (rows) had a touch, by the channel that closed (columns)."""
        base = len(self.channels) + 1
        rows = (np.bincount(self.last, self.won_by_path * (self.sets >> i & 1), base)[1:] for i in range(base - 1))
        return np.array([*rows], float)

    def credit(self, rules: Mapping[str, Rule], groups: int = 1) -> dict[str, Floats]:
        begins, lengths = self.begins[:-1], np.diff(self.begins)
        position = np.arange(len(self.codes)) - np.repeat(begins, lengths) + 1
        direct = np.array([False, *(c.casefold() in DIRECT for c in self.channels)])[self.codes]
        closer = np.maximum.reduceat(np.where(direct, 0, position), begins)
        closer = np.repeat(np.where(closer, closer, lengths), lengths)
        touches = Touches(position, np.repeat(lengths, lengths), closer, None, np.where)
        parts, told = self._groups(groups), {}
        for name, rule in rules.items():
            weight = np.asarray(rule(touches), float) * np.ones(len(position))
            whole = np.add.reduceat(weight, begins)
            rule_of = f"The model {name!r} gives some journeys no weight: weights must be positive."
            require(bool((whole > 0).all() and (weight >= 0).all()), rule_of)
            weight /= np.repeat(whole, lengths)
            credits = [[self._by_channel(weight, by_path) for by_path in part[:2]] for part in parts]
            told[name] = np.array(credits).swapaxes(1, 2)
        return told

    def _by_channel(self, weight: Floats, by_path: Floats) -> Floats:
        spread = weight * np.repeat(by_path, np.diff(self.begins))
        return np.asarray(np.bincount(self.codes, spread, len(self.channels) + 1)[1:], float)

    def _groups(self, groups: int) -> list[tuple[Floats, Floats, Floats]]:
        """Conversions, value and nulls of each path, drawn into groups: each journey goes to one of them."""
        counts = self.won_by_path, self.value_by_path, self.lost_by_path
        if groups == 1:
            return [counts]
        require(
            all((c % 1 == 0).all() for c in counts[::2]), "Counts of paths must be whole, or else give confidence=None."
        )
        rng, (won, value, lost) = np.random.default_rng(0), counts
        left, drawn = [won.astype(np.int64), lost.astype(np.int64)], []
        each = value / np.where(won > 0, won, 1)
        for g in range(groups):
            part = [rng.binomial(n, 1 / (groups - g)) for n in left]
            left = [n - k for n, k in zip(left, part, strict=True)]
            drawn.append((part[0].astype(float), part[0] * each, part[1].astype(float)))
        return drawn

    def steps(self, order: int = 1, groups: int = 1) -> Steps:
        base, lengths, begins = len(self.channels) + 1, np.diff(self.begins), self.begins[:-1]
        early = [(begins + j)[lengths > j] for j in range(order - 1)]  # touches with fewer than `order` - 1 before them
        state = self.codes.copy()
        for back in range(1, order):
            before = np.roll(self.codes, back)
            for at in early[:back]:
                before[at] = 0
            state += before * base**back
        keys, end = state[:-1] * base + self.codes[1:], self.begins[1:] - 1
        first, last = state[begins + np.minimum(order, lengths) - 1], state[end]
        told: list[tuple[Any, ...]] = []
        for g, (won, value, lost) in enumerate(self._groups(groups)):
            whole = won + lost
            walked = np.repeat(whole, lengths)
            for at in (end, *early):
                walked[at] = 0
            move, n = counted(keys, base ** (order + 1), walked[:-1])
            told.append((move // base, move % base, n, 0 * n, g))
            for then, of, weight in ((BEGUN, first, whole), (LEFT, last, lost), (CONVERTED, last, won)):
                at, n, paid = counted(of, base**order, weight, value)
                told.append((at, np.full(len(at), then), n, paid * (then == CONVERTED), g))
        columns = (np.concatenate([np.broadcast_to(part[i], len(part[0])) for part in told]) for i in range(5))
        rows: dict[str, Any] = dict(zip(Steps._fields, columns, strict=False))
        return Steps(**rows, order=order, n_channels=base - 1)

    def shared(self, groups: int = 1) -> Floats:
        sets, of = np.unique(self.sets, return_inverse=True)
        parts = [[np.bincount(of, by_path, len(sets)) for by_path in part[:2]] for part in self._groups(groups)]
        return split_evenly(sets, np.array(parts), len(self.channels))

    def won(self) -> "PathTable":
        return self


def split_evenly(sets: Ints, sums: Floats, n_channels: int) -> Floats:
    """Sums of sets of channels (groups, 2, sets), split between the members: (groups, channels, 2)."""
    member = (sets[:, None] >> np.arange(n_channels)) & 1
    return np.asarray((sums @ (member / member.sum(axis=1, keepdims=True))).swapaxes(1, 2))


def counted(keys: Ints, size: int, *weights: Floats) -> tuple[Any, ...]:
    """Sorted keys, below `size`, whose first weights are positive, and for each the sums of all weights."""
    sums = [np.bincount(keys, weight, size) for weight in weights]  # 63⁴ at most: three channels and the next of 62
    found = np.flatnonzero(sums[0])
    return found, *(each[found] for each in sums)


def from_paths(
    frame: Any, *, path: str, conversions: str, nulls: str | None = None, value: str | None = None,
    separator: str = " > ", currency: str = "",
) -> PathTable:  # fmt: skip
    """Read a table of paths, one row a path, as other tools export it; rows of one path are added up.

    `frame`: a DataFrame, an Ibis table or the path of a Parquet or CSV file; `path`: the column of channels joined by
    `separator`, as it is written (spaces around ">" are free); `conversions`, `nulls`: journeys that did and did not
    convert; `value`: of all conversions of the row.
    Raises `KpiError` for empty channels, negative or missing numbers, more than 62 channels, and no conversion at all.

    >>> rows = pd.DataFrame({"path": ["google", "mailing", "google > mailing"], "won": [2, 1, 1], "lost": [1, 0, 0]})
    >>> from_paths(rows, path="path", conversions="won", nulls="lost").channels
    ('google', 'mailing')
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    table = frame if isinstance(frame, pd.DataFrame) else _exact(as_table(frame)).to_pyarrow().to_pandas()
    for column in filter(None, (path, conversions, nulls, value)):
        require_known(column, table.columns, f"The table of paths has no column {column!r}.")
    text = pa.array(table[path], pa.large_string(), from_pandas=True)
    text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text  # of long or joined frames
    require(
        text.null_count == 0, f"{text.null_count} rows have no path. Leave them out: they tell nothing of channels."
    )
    split = pc.split_pattern(text, ">" if separator.strip() == ">" else separator)
    coded = pc.utf8_trim_whitespace(split.flatten()).dictionary_encode()
    names = coded.dictionary.to_pylist()
    require("" not in names, f"A path has an empty channel. Is {separator!r} the separator between channels?")
    require_few(names)
    order = np.argsort(names)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(1, len(names) + 1)
    numbers = [_numbers(table, column, len(text)) for column in (conversions, value, nulls)]
    won, worth, lost = numbers
    require(won.sum() > 0, "No path converted: there is nothing to attribute.")
    odd = int(((worth > 0) & (won == 0)).sum())
    require(odd == 0, f"{odd} rows have a value but no conversion.")
    codes = rank[coded.indices.to_numpy(zero_copy_only=False)]
    return PathTable(
        channels=tuple(names[i] for i in order), codes=codes, begins=split.offsets.to_numpy().astype(np.int64),
        won_by_path=won, value_by_path=worth, lost_by_path=lost, conversions=float(won.sum()),
        value=float(worth.sum()), nulls=float(lost.sum()), sample=int(won.sum() + lost.sum()), currency=currency,
    )  # fmt: skip


def _exact(table: Any) -> Any:
    """Decimals as floats, for which counts and sums of money are exact up to 2⁵³."""
    decimals = [c for c in table.columns if table[c].type().is_decimal()]
    return table.mutate(**{c: table[c].cast("float64") for c in decimals})


def require_few(channels: Sequence[str]) -> None:
    """Raise `KpiError` for more channels than a set of 64 bits holds."""
    rule = (
        f"{len(channels)} channels, but {MOST_CHANNELS} at most can be told apart. Put the rarest together as 'other'."
    )
    require(0 < len(channels) <= MOST_CHANNELS, rule if len(channels) else "There are no channels: no touch is left.")
    taken = [name for name in channels if name.casefold() == BASELINE]
    require(not taken, f"A channel is called {taken}: so are conversions that no channel earns. Rename it.")


def _numbers(table: pd.DataFrame, column: str | None, n: int) -> Floats:
    if column is None:
        return np.zeros(n)
    require(pd.api.types.is_numeric_dtype(table[column]), f"{column} is {table[column].dtype}: it must hold numbers.")
    found: Floats = table[column].to_numpy(float, na_value=np.nan)
    wrong = int((~(found >= 0) | np.isinf(found)).sum())
    require(wrong == 0, f"{column} is negative or missing in {wrong} rows. Counts and values must be 0 or more.")
    return found
