"""What a report consists of, whatever it is written as: the first screen, and sections of text, tables and charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from harness.suite.text import bytes_text, number_text, percent_text

Row = dict[str, Any]
Rows = list[Row]
"""of a chart's data"""
MISSING = "\N{EN DASH}"
"""in place of a missing value"""


@dataclass(frozen=True)
class Cell:
    """``text`` is read by people, ``sort`` by the sorting of its column (None comes last)."""

    text: str
    sort: str | float | None = None

    @classmethod
    def of(cls, value: "Cell | float | str | None") -> "Cell":
        """A value as a cell: numbers short, what is missing as a dash."""
        if isinstance(value, Cell):
            return value
        if isinstance(value, str):
            return cls(value, value.lower())
        return cls(MISSING) if value is None or not math.isfinite(value) else cls(number_text(value), value)

    @classmethod
    def share(cls, value: float, sign: str = "", digits: int = 0) -> "Cell":
        """A fraction, in percent."""
        return cls(percent_text(value, sign, digits), value) if math.isfinite(value) else cls(MISSING)

    @classmethod
    def size(cls, size: float) -> "Cell":
        """Bytes; 0 is what was not measured."""
        return cls(bytes_text(size), size) if math.isfinite(size) and size else cls(MISSING)

    @classmethod
    def metric(cls, name: str, value: float) -> "Cell":
        """A value of a metric."""
        return cls.size(value) if name.endswith("_bytes") else cls.of(value)


@dataclass(frozen=True)
class Table:
    """The first column names the rows. ``numeric`` columns are set flush right. Without rows it is not shown."""

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    sortable: bool = True

    @classmethod
    def of(cls, id: str, caption: str, rows: Sequence[Row], *, sortable: bool = True) -> "Table":
        """From rows of cells or plain values by the names of their columns, which are those of the first row."""
        columns = tuple(rows[0]) if rows else ()
        return cls(id, caption, columns, [[Cell.of(row[name]) for name in columns] for row in rows], sortable)

    @classmethod
    def facts(cls, id: str, caption: str, facts: Mapping[str, str]) -> "Table":
        """A row for each of them, in their order."""
        return cls.of(id, caption, [{"what": what, "value": value} for what, value in facts.items()], sortable=False)

    @cached_property
    def numeric(self) -> set[str]:
        """Columns that hold numbers, apart from the first."""
        sorts = {name: {type(row[place].sort) for row in self.rows} for place, name in enumerate(self.columns) if place}
        return {name for name, own in sorts.items() if own - {type(None)} and str not in own}


@dataclass(frozen=True)
class Chart:
    """``spec`` is Vega-Lite that names its data, which the page holds once for all charts that name it."""

    id: str
    title: str
    spec: Mapping[str, Any]
    data: Mapping[str, Rows]
    """rows by the names that ``spec`` uses"""
    height: int
    """pixels to keep free until it is drawn"""
    wide: bool = True
    """takes the whole width; others stand side by side where there is room"""


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    caption: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    text: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    code: Sequence[Code] = ()
    video: str | None = None
    """an MP4 file as a ``data:`` URL"""


@dataclass(frozen=True)
class FirstScreen:
    """The first screen."""

    headline: str
    """a few characters, the largest of the page"""
    unit: str
    """what the headline counts"""
    claim: str
    facts: Sequence[tuple[str, str]] = ()
    """name and text"""
    command: str | None = None
    settings: Table | None = None
    """of the best configuration beside the baseline's"""
    charts: Sequence[Chart] = ()


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    first_screen: FirstScreen | None
    sections: Sequence[Section]
    source: str = ""
    """what the page is made from, for its last line"""
    watched: str | None = None
    """how far the study is while it runs; the page then loads itself again"""

    @property
    def charts(self) -> list[Chart]:
        """All charts, by section."""
        shown = [chart for section in self.sections for chart in section.charts]
        return [*shown, *self.first_screen.charts] if self.first_screen else shown

    @property
    def data(self) -> dict[str, Rows]:
        """The rows of all charts, by the names that their specs use."""
        return {name: rows for chart in self.charts for name, rows in chart.data.items()}

    @property
    def made(self) -> str:
        """When, and from what."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"Made {now}{self.source and f' from {self.source}'}"
