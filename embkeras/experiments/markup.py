"""Pieces of an HTML page that needs nothing but itself: style, tables in boxes that scroll, and plots as SVG."""

import base64
import html
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from embkeras.drift.plots import svg_of
from embkeras.errors import MissingDependencyError

Columns = Mapping[str, tuple[str, Callable[[Any], str]]]  # column -> its heading, and how its values are written

_LONG = 40  # characters from which on a cell is broken into lines
_STYLE = """
:root { color-scheme: light dark }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.2 }
h2 { font-size: 1.25rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
.advice { border-left: .3rem solid #0072b2; padding: .7rem 1rem; font-size: 1.1rem }
.scroll { overflow-x: auto; border: 1px solid; border-radius: .4rem }
table { border-collapse: separate; border-spacing: 0; min-width: 100%; font-size: .9rem }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; white-space: nowrap; border-bottom: 1px solid }
tbody tr:last-child > * { border-bottom: 0 }
th { overflow-wrap: normal }
thead th { white-space: normal; vertical-align: bottom; min-width: 5rem }
tbody th { position: sticky; left: 0; background-clip: padding-box; white-space: normal; min-width: 8rem }
.number { text-align: right; font-variant-numeric: tabular-nums }
.long { white-space: normal; min-width: 14rem }
figure { margin: 1rem 0 }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .4rem }
footer { margin-top: 2.5rem; border-top: 1px solid; padding-top: .5rem; font-size: .85rem }
body, tbody th { color: #1b1d21; background-color: #fff }
.advice, thead th { background-color: #f2f4f7 }
.scroll, th, td, footer { border-color: #d3d7dd }
@media (prefers-color-scheme: dark) {
  body, tbody th { color: #e6e8eb; background-color: #15181c }
  .advice, thead th { background-color: #20252b }
  .advice { border-color: #6cb8e6 }
  .scroll, th, td, footer { border-color: #3b434d }
}
@media print { .scroll { overflow: visible } tbody th { position: static } }
"""


def percent(value: float) -> str:
    """A share, 0 to 1, in percent."""
    return f"{100 * value:.1f}%"


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def digits(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def points(value: float) -> str:
    """A difference of shares, in points of percent."""
    return f"{100 * value:.1f}"


def number(value: int) -> str:
    """Which text."""
    return f"{value}"


def yes(value: bool) -> str:
    """Yes or no."""
    return "yes" if value else "no"


_WORDS = (str, yes)  # what writes words, and not numbers


def text(value: str) -> str:
    """Escaped text. What isn't ASCII can't change the direction in which the text beside it is read.

    Examples:
        >>> text("R&D <b>")
        'R&amp;D &lt;b&gt;'
    """
    escaped = html.escape(value)
    return escaped if value.isascii() else f"<bdi>{escaped}</bdi>"


def document(title: str, sections: Iterable[str]) -> str:
    """A whole page."""
    body = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{text(title)}</h1>\n"
        f"{body}\n<footer>Made with embkeras</footer>\n</body>\n</html>\n"
    )


def figure(draw: Callable[[], Any], description: str) -> str:
    """A plot, or a sentence where matplotlib is not installed.

    Args:
        draw: returns the Axes.
        description: for those who can't see it.
    """
    try:
        picture = base64.b64encode(svg_of(draw())).decode("ascii")
    except MissingDependencyError as error:
        return f"<p>The plot is left out. {text(str(error))}</p>"
    return f'<figure><img src="data:image/svg+xml;base64,{picture}" alt="{html.escape(description)}"></figure>'


def table(frame: pd.DataFrame, columns: Columns, heading: str, *, names: str | None = None, most: int = 50) -> str:
    """A table in a box that scrolls, its heading above it. Columns that are empty are left out.

    Args:
        frame: the values.
        columns: which of its columns are shown, in which order.
        heading: what the table shows.
        names: heading of the rows' names; without it they are left out.
        most: how many rows are shown; the heading says if there are more.
    """
    kept = {name: columns[name] for name in columns if name in frame and not _is_empty(frame[name])}
    titles = [] if names is None else [_heading(names)]
    titles += [_heading(title, right=write not in _WORDS) for title, write in kept.values()]
    rows = []
    for row, name in enumerate(frame.index[:most]):
        cells = [_cell(frame[column].iloc[row], write) for column, (_, write) in kept.items()]
        rows.append(cells if names is None else [_name(str(name)), *cells])
    more = f" (the first {most} of {len(frame):,})" if len(frame) > most else ""
    return _box(heading + more, titles, rows)


def turned_table(frame: pd.DataFrame, columns: Columns, heading: str) -> str:
    """The same with a line for each column of a frame that has few rows."""
    kept = {name: columns[name] for name in columns if name in frame}
    titles = [_heading(""), *(_heading(str(name), right=True) for name in frame.index)]
    rows = [[_name(title), *(_cell(value, write) for value in frame[name])] for name, (title, write) in kept.items()]
    return _box(heading, titles, rows)


def _box(heading: str, titles: list[str], rows: list[list[str]]) -> str:
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<h3>{text(heading)}</h3>\n<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(heading)}">'
        f"<table>\n<thead><tr>{''.join(titles)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _heading(title: str, *, right: bool = False) -> str:
    return f'<th scope="col"{" class=number" if right else ""}>{text(title)}</th>'


def _name(title: str) -> str:
    return f'<th scope="row">{text(title)}</th>'


def _cell(value: Any, write: Callable[[Any], str]) -> str:
    """A value, or a dash where it is not known."""
    unknown = value is None or (isinstance(value, float | np.floating) and not math.isfinite(value))
    written = "–" if unknown else write(value)
    kind = "number" if write not in _WORDS else "long" if len(written) > _LONG else ""
    return f"<td{f' class={kind}' if kind else ''}>{html.escape(written) if unknown else text(written)}</td>"


def _is_empty(column: pd.Series) -> bool:
    return bool((column.isna() | (column.astype(str) == "")).all())
