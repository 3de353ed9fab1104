"""Text as tools export it: bytes to cells, cells to dates and numbers."""

import csv
import gzip
import io
import re
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa  # type: ignore[import-untyped]
from ibis import _

from kpi_helpers.errors import ContractError
from kpi_helpers.result import Text, both_say

EXACT = "decimal(24, 6)"
ISO = "%Y-%m-%d"  # with or without a time
ISO_SHAPE = r"^\d{4}-\d\d?-\d\d?([ T]([01]?\d|2[0-3]):\d\d(:\d\d(\.\d{1,6})?)?)?$"
SYMBOLS = {"VND": ("₫", "đ", "vnđ", "đồng"), "USD": ("$", "US$"), "EUR": ("€",), "GBP": ("£",), "JPY": ("¥",)}
#: words for nothing that tools write into columns of numbers
MARKERS = r"(?i)^(select|err:\d+|#[a-z0-9/]+[!?]?|null|none|n/?a|nan|-+|[–—?]|\(not set\)|\\n)$"
SPACES, HIDDEN = "[\u00a0\u2000-\u200a\u202f\u205f\u3000]", "[\u200b\u2060\ufeff]"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
FOREIGN = {b"PK\x03\x04": "a spreadsheet (XLSX)", b"\xd0\xcf\x11\xe0": "a spreadsheet (XLS)", b"<": "a web page (HTML)"}
# of the engine of files: a date, NULL where the text does not fit; accents composed; length in bytes
_read_date = ibis.udf.scalar.builtin(
    lambda text, form: ..., name="try_strptime", signature=(("string",) * 2, "timestamp")
)
_composed = ibis.udf.scalar.builtin(lambda text: ..., name="nfc_normalize", signature=(("string",), "string"))
_bytes = ibis.udf.scalar.builtin(lambda text: ..., name="strlen", signature=(("string",), "int64"))


class Sheet(NamedTuple):
    """Cells of a CSV file as text; lines that have too many or too few; names that the header repeats."""

    cells: pa.Table
    ragged: list[str]
    repeated: list[str]
    notes: list[Text]


def clean(name: str) -> str:
    """One spelling for what looks alike: composed accents, plain spaces, nothing invisible, none around."""
    return re.sub(HIDDEN, "", re.sub(SPACES, " ", unicodedata.normalize("NFC", name))).strip()


def cleaned(text: ir.StringValue) -> ir.StringValue:
    """`clean` for a column of a file."""
    plain = _bytes(text) == text.length()  # ASCII is as it should be, and quicker told than cleaned
    return plain.ifelse(text, _composed(text).re_replace(SPACES, " ").re_replace(HIDDEN, "")).strip()


def read_csv(path: Path, encoding: str, codec: str, header: Any = (), spaces: bool = False) -> Sheet:
    """Read a CSV file as text; only the delimiter is guessed, which the header shows, unless it is any `spaces`."""
    text, notes = _decoded(path, encoding, codec)
    text = "\n".join("\t".join(line.split()) for line in text.split("\n")) if spaces else text
    head, rows, ragged = _cells(path, text, list(header))
    names = [clean(name) or f"column {i}" for i, name in enumerate(head, 1)]
    named = Counter(map(str.casefold, names))
    repeated = [name for name in names if named[name.casefold()] > 1]
    while len(named := Counter(map(str.casefold, names))) < len(names):  # an engine asks for a name for each
        names = [f"{name} ({i})" if named[name.casefold()] > 1 else name for i, name in enumerate(names, 1)]
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    cells = pa.table([pa.array(column, pa.string()) for column in columns], names=names)
    return Sheet(cells, ragged, repeated, notes)


def _decoded(path: Path, encoding: str, codec: str) -> tuple[str, list[Text]]:
    data, text, bad = path.read_bytes(), "", None
    try:
        data = gzip.decompress(data) if path.name.endswith(".gz") else data
        text = data.decode(codec)
    except (OSError, EOFError, zlib.error) as error:
        raise ContractError(f"{path} is not compressed as .gz says: {error}. Compress it again.") from None
    except UnicodeDecodeError as error:
        bad = error.start
    begin = data.rfind(b"\n", 0, bad or 0) + 1
    shown = " ".join(data[begin : begin + 60].split(b"\n")[0].decode("cp1258", "replace").split())
    line = (text.partition("\0")[0].count("\n") if bad is None else data.count(b"\n", 0, bad)) + 1
    foreign = "".join(what for start, what in FOREIGN.items() if data.lstrip().startswith(start))
    alike = codec == "cp1258" and not data.isascii() and data.decode("utf-8", "ignore").encode() == data
    for wrong, told in (
        (foreign, f"is {foreign}, not CSV. Open it and save it as CSV UTF-8."),
        (codec != "utf-16" and data[:2] in UTF_16, "is UTF-16. Write encoding: utf-16 in the mapping, or save it as "
         "CSV UTF-8."),
        (bad is not None, f"is not {encoding.upper()}: line {line} is the first bad one. If \"{shown}\" reads well, "
         "write encoding: windows-1258 in the mapping; if not, save it as CSV UTF-8."),
        ("\0" in text, f"is broken in line {line}: a NUL byte is no text. Export again, or save it as CSV UTF-8."),
        (alike, f"is UTF-8 already. Leave encoding: {encoding} out of the mapping."),
    ):  # fmt: skip
        if wrong:
            raise ContractError(f"{path} {told}")
    plain = codec == "utf-8-sig" and not data.startswith(b"\xef\xbb\xbf")
    return text, [] if plain else [both_say("check.encoding", file=path.name, encoding=encoding)]


def _cells(path: Path, text: str, head: list[str]) -> tuple[list[str], list[list[str]], list[str]]:
    """Header (the first line, unless it is given), the rows that have as many cells, and the other lines."""
    heading, line = next((row for row in io.StringIO(text, newline=None) if row != "\n"), ""), 1
    rows: list[list[str]] = []
    ragged: list[str] = []
    try:
        mark = max(",;\t|", key=lambda d: len(next(csv.reader([heading], delimiter=d), ())))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        for row in reader:
            if row and head and len(row) != len(head):
                ragged.append(f"{line}: {mark.join(row)[:60]}")
            elif row and head:
                rows.append(row)
            head = head or row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ContractError(
            f"{path}, line {line}: a quotation mark is not closed, or stands within a quoted cell ({error}). "
            'Quote the whole cell and double the marks inside it, such as "5"" screen".'
        ) from None
    return head or [""], rows, ragged


def listed(options: dict[str, Any], name: str) -> list[str]:
    """What an option holds, be it one or a list."""
    told = options.get(name) or []
    return [str(one) for one in told] if isinstance(told, list) else [str(told)]


def date_forms(options: dict[str, Any]) -> list[str]:
    """Formats in which the dates of a column may be written."""
    return listed(options, "date_format") or [ISO]


def translated(text: ir.StringValue, words: dict[Any, Any]) -> ir.StringValue:
    """Words of a source as the mapping's `values` translates them: "" is an empty cell, "*" any other word."""
    if not words:
        return text
    ours = {w: str(int(word) if isinstance(word, bool) else word) for w, word in words.items()}
    rest = text.notnull().ifelse(ours.pop("*"), None) if "*" in ours else text
    blank = ours.pop("", None)  # YAML takes TRUE for a truth, not for a word
    told = [(text.lower() == str(w).lower() if isinstance(w, bool) else text == clean(str(w)), ours[w]) for w in ours]
    read = ibis.cases(*told, else_=rest) if told else rest
    return read if blank is None else text.isnull().ifelse(blank, read)


def text_as_time(text: ir.StringValue, forms: list[str]) -> ir.Value:
    """Read a date or time by the given formats only; a text that two formats read differently is none."""
    read = [_read_by(text, form) for form in forms]
    low, high = ibis.least(*read), ibis.greatest(*read)
    # the engine takes "epoch" for a date; neither 17/2/26 nor 9999-12-31 is meant
    certain = (low == high) & text.re_search(r"\d") & low.year().between(1900, 2099)
    return certain.ifelse(low, ibis.null("timestamp"))


def _read_by(text: ir.StringValue, form: str) -> Any:
    if form != ISO:
        return _read_date(text, form)
    return text.re_search(ISO_SHAPE).ifelse(text, ibis.null("string")).try_cast("timestamp")


def spellings(text: ir.StringColumn) -> str:
    """The most frequent spellings of a column, digits being alike, with how often each occurs; one query."""
    shape = text.re_replace(r"\d+", "9")
    seen = text.name("raw").as_table().filter(text.notnull()).group_by(shape=shape)
    rows = seen.aggregate(n=_.count(), such=_.raw.min()).order_by(ibis.desc("n"), "shape").limit(4).to_pyarrow()
    return ", ".join(f'{row["n"]:,} × "{row["such"][:60]}"' for row in rows.to_pylist())


def text_as_number(text: ir.StringValue, options: dict[str, Any]) -> ir.Value:
    """Read a number in the given decimal mark, thousands separator and currency only: "1.5" is never taken for 15."""
    point, group = options.get("decimal", "."), options.get("thousands", "")
    bare = text.re_search(_number_shape(options)).ifelse(text, ibis.null("string"))
    bare = bare.re_replace(rf"\s*{_symbols(options)}\s*", "") if options.get("currency") else bare
    bare = bare.replace(group, "") if group else bare
    bare = bare.replace(point, ".") if point != "." else bare
    # the short decimal is read 200 times faster than the long one, which only sums of a trillion need
    return ibis.coalesce(bare.try_cast("decimal(18, 6)").cast(EXACT), bare.try_cast(EXACT))


def _number_shape(options: dict[str, Any]) -> str:
    """Pattern of a number; its currency, if known, may stand once before or behind."""
    p, g = re.escape(options.get("decimal", ".")), re.escape(options.get("thousands", ""))
    grouped = rf"|\d{{1,3}}({g}\d{{3}})+" if g else ""
    bare = rf"(\d+{grouped})({p}\d+)?([eE][+-]?\d+)?"
    if not options.get("currency"):
        return rf"^[+-]?{bare}$"
    coin = _symbols(options)
    return rf"^([+-]?{bare}(\s*{coin})?|{coin}\s*[+-]?{bare}|[+-]{coin}\s*{bare})$"


def _symbols(options: dict[str, Any]) -> str:
    code = str(options["currency"]).upper()
    return f"(?i:{'|'.join(map(re.escape, sorted((code, *SYMBOLS.get(code, ())), key=len, reverse=True)))})"
