"""Pieces of an HTML page: escaped text, tables, plots."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from embkeras.errors import MissingDependencyError
from embkeras.experiments import markup

COLUMNS = {"share": ("share", markup.percent), "name": ("name", str), "gone": ("gone", str), "none": ("none", str)}


class Cells(HTMLParser):
    """The text of each row's cells, and each start of a tag with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.open = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        """Keep the tag, and begin a row or a cell."""
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        """Each end closes the tag opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Add to the cell."""
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("value", ["<script>alert(1)</script>", "a \"b\" & 'c'", "</table>", "\u202eabc", "&amp;"])
def test_text_is_shown_as_it_is(value):
    """Neither a cell, a name nor a heading is read as HTML, or turns the direction of its neighbours."""
    frame = pd.DataFrame({"share": [0.5], "name": [value]}, index=[value])
    page = Cells(markup.document(value, [markup.table(frame, COLUMNS, value, names=value)]))
    assert page.rows == [[value, "share", "name"], [value, "50.0%", value]]
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert ("bdi" in dict(page.tags)) == (not value.isascii())


def test_unknown_values_are_dashes_and_empty_columns_left_out():
    """NaN, infinity and None are not known; a column of nothing, or one that is not there, is not shown."""
    frame = pd.DataFrame(
        {"share": [np.nan, np.inf, 0.25], "name": ["a", None, "c"], "none": ["", None, ""], "more": [1, 2, 3]}
    )
    page = Cells(markup.table(frame, COLUMNS, "heading"))
    assert page.rows == [["share", "name"], ["–", "a"], ["–", "–"], ["25.0%", "c"]]


def test_long_tables_are_cut_and_say_so():
    """With how many rows there are."""
    table = markup.table(pd.DataFrame({"share": np.ones(1200)}), COLUMNS, "Heading", most=3)
    assert len(Cells(table).rows) == 4 and "Heading (the first 3 of 1,200)" in table


def test_turned_table_has_a_line_for_each_column():
    """Named by the headings, under the names of the rows."""
    frame = pd.DataFrame({"share": [0.5, np.nan], "name": ["a", "b"]}, index=["train", "test"])
    page = Cells(markup.turned_table(frame, COLUMNS, "heading"))
    assert page.rows == [["", "train", "test"], ["share", "50.0%", "–"], ["name", "a", "b"]]


def test_without_matplotlib_a_sentence_stands_in():
    """With what to install."""

    def draw():
        raise MissingDependencyError('Plots need matplotlib: python -m pip install "embkeras[plots]".')

    assert markup.figure(draw, "bars").startswith("<p>The plot is left out. Plots need matplotlib")
