"""What a report consists of, whatever it is written as: the answer, and sections of text, tables and charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.suite.text import number_text

Value = str | float | None
MISSING = "\N{EN DASH}"
"""in place of a value that there is not"""
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """``text`` is read by people, ``sort`` by the sorting of its column (None comes last)."""

    text: str
    sort: Value = None

    @classmethod
    def of(cls, value: "Cell | float | str | bool | None") -> "Cell":
        """A cell as it is usual for a value of its kind: numbers short, what is missing as a dash."""
        if isinstance(value, Cell):
            return value
        if value is None:
            return cls(MISSING)
        if isinstance(value, bool):
            return cls("yes" if value else "no", float(value))
        if isinstance(value, int | float):
            return cls(number_text(value), value) if math.isfinite(value) else cls(MISSING)
        return cls(value, value.lower())


def share(value: float, *, sign: bool = False, digits: int = 0) -> Cell:
    """A fraction as a cell."""
    return Cell(percent(value, sign=sign, digits=digits), value) if math.isfinite(value) else Cell(MISSING)


def mebibytes(size: float) -> Cell:
    """Bytes as a cell; 0 is what was not measured."""
    return Cell(f"{size / 2**20:,.1f} MiB", size) if math.isfinite(size) and size else Cell(MISSING)


@dataclass(frozen=True)
class Table:
    """The first column names the rows. ``numeric`` columns are set flush right."""

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[str] = frozenset()
    sortable: bool = True

    @classmethod
    def of(
        cls, id: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, sortable: bool = True
    ) -> "Table":
        """From plain values; a column of numbers is numeric."""
        cells = tuple(tuple(Cell.of(value) for value in row) for row in rows)
        numeric = {
            name
            for index, name in enumerate(columns)
            if index and any(isinstance(row[index].sort, int | float) for row in cells)
            and not any(isinstance(row[index].sort, str) for row in cells)
        }  # fmt: skip
        return cls(id, caption, tuple(columns), cells, frozenset(numeric), sortable)


@dataclass(frozen=True)
class Chart:
    """``spec`` is Vega-Lite that names its data, which the page holds once for all charts that name it."""

    id: str
    title: str
    description: str
    """what is to be seen, for those who do not see it"""
    spec: Mapping[str, Any]
    data: Mapping[str, list[dict[str, Any]]]
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
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    code: tuple[Code, ...] = ()


@dataclass(frozen=True)
class FirstScreen:
    """The first screen."""

    headline: str
    """a few characters, the largest of the page"""
    unit: str
    """what the headline counts"""
    claim: str
    facts: tuple[tuple[str, str], ...]
    """name and text"""
    command: str | None
    settings: Table | None
    """of the best configuration beside the baseline's"""
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    answer: FirstScreen | None
    sections: tuple[Section, ...]
    source: str = ""
    """what the page is made from, for its last line"""
    watched: str | None = None
    """how far the study is while it runs; the page then loads itself again"""

    @property
    def charts(self) -> list[Chart]:
        shown = [chart for section in self.sections for chart in section.charts]
        return [*shown, *self.answer.charts] if self.answer else shown

    @property
    def data(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of all charts, by the names that their specs use."""
        return {name: rows for chart in self.charts for name, rows in chart.data.items()}

    @property
    def made(self) -> str:
        """When, and from what."""
        now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        return f"Made {now} UTC{self.source and f' from {self.source}'}"


def finite(value: float) -> float | None:
    """As JSON can hold it, with the digits that a chart can show."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def percent(value: float, *, sign: bool = False, digits: int = 0) -> str:
    """A fraction as people read it."""
    return f"{value:{'+' if sign else ''}.{digits}%}".replace("%", " %").replace("-", MINUS)
