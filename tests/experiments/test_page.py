"""report_html: one page of what a comparison, a profile and a drift report show."""

import base64
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from embkeras import data_profile, drift_report, report_html, save_report
from embkeras.errors import ArgumentError, OutputError
from embkeras.experiments.advice import Advice
from tests.experiments.test_advice import records
from tests.experiments.test_markup import Cells

PROFILE = data_profile(
    ["a cat", "a cat", "a dog", "the dog"],
    ["x", "y", "<y>", "<y>"],
    validation=(["A CAT"], ["x"]),
    test=(["a  cat", "a cow"], ["y", "x"]),
    neighbours=1,
)
DRIFT = drift_report(np.eye(3), np.diag([1.0, 2, 1]) + np.eye(3, k=1), ["<b>", "cat", "caf\u00e9"], counts=[5, 6, 7])


def _advice():
    runs = (*records("shared map", [0.9, 0.91, 0.9], [0.8] * 3, size=2e6), *records("<b>", [0.7] * 3, [0.6] * 3))
    return Advice(runs, tuple(records("random", [0.5], [0.5])), {"random": "behind by 40 points"})


def _curve():
    table = pd.DataFrame({"strategy": ["a"], "texts": [100], "accuracy": [0.7], "half_width": [np.inf], "seeds": [1]})
    return SimpleNamespace(table=table, texts=(100,))


@pytest.fixture(scope="module")
def page():
    """A page with everything."""
    pytest.importorskip("matplotlib", reason="the plots of the page")
    return report_html(_advice(), profile=PROFILE, drift=DRIFT, curve=_curve(), title="Cats & <dogs>")


def test_advice_comes_first(page):
    """The sentences, then the table with each strategy, those that left too."""
    assert "<h1>Cats &amp; &lt;dogs&gt;</h1>" in page
    advice, table = page.index("shared map is the best"), page.index("<h3>Strategies</h3>")
    assert page.index("<h1>") < advice < table
    rows = {row[0]: row for row in Cells(page).rows[:4]}
    assert rows["shared map"][1:3] == ["90.3%", "80.0 ± 2.5"] and "2.00" in rows["shared map"]
    assert ">drift<" in page
    assert rows["random"][-1] == "behind by 40 points" and rows["<b>"][2] == "60.0 ± 3.0"


def test_page_needs_nothing_but_itself(page):
    """No script, and no address but those of its own plots, of which there is one for each part."""
    tags = Cells(page).tags
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    sources = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(sources) == 3 and all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert all(b"<svg" in base64.b64decode(source.partition(",")[2]) for source in sources)
    assert not re.search(r"@import|url\(", page)
    assert 'content="width=device-width, initial-scale=1"' in page and "prefers-color-scheme: dark" in page


def test_every_table_scrolls_in_its_own_box(page):
    """So that the page fits a narrow screen."""
    assert page.count("<table>") == page.count('<div class="scroll"') == len(re.findall("</table></div>", page)) > 8


def test_leaks_and_conflicts_are_listed(page):
    """The test part first; and training texts that are there twice under two labels."""
    rows = Cells(page).rows
    first = rows.index(["part", "text", "label", "training text", "its label", "resemblance", "exactly"])
    assert rows[first + 1 : first + 3] == [
        ["test", "0", "y", "0", "x", "100.0%", "yes"],
        ["validation", "0", "x", "0", "x", "100.0%", "yes"],
    ]
    assert ["train", "1", "y", "0", "x", "100.0%", "yes"] in rows


def test_drift_is_summed_up(page):
    """Rows, and the words that moved most."""
    rows = Cells(page).rows
    assert ["rows that moved", "2"] in rows and any(row[:2] == ["<b>", "5"] for row in rows)


def test_page_is_the_same_each_time(page):
    """Nothing in it depends on the date or on chance."""
    assert report_html(_advice(), profile=PROFILE, drift=DRIFT, curve=_curve(), title="Cats & <dogs>") == page


def test_each_part_is_a_page_too():
    """What is not given has no heading; an advice without runs has sentences alone."""
    assert "<h2>" not in report_html(Advice(())) and "nothing is recommended" in report_html(Advice(()))
    alone = report_html(profile=PROFILE)
    assert "<h2>Data</h2>" in alone and "Drift" not in alone and "advice" not in Cells(alone).tags


def test_file_is_written_whole(tmp_path):
    """In UTF-8, half a surrogate pair as a reference; it is not replaced unless allowed."""
    path = save_report(tmp_path / "new" / "report.html", profile=PROFILE, title="é \ud83d")
    assert path.read_text("utf-8") == report_html(profile=PROFILE, title="é \ud83d").replace("\ud83d", "&#55357;")
    with pytest.raises(OutputError, match="already exists"):
        save_report(path, profile=PROFILE, overwrite=False)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "none of them"),
        ({"result": 3}, "result must be what compare_strategies or race_strategies returned. Received: 3"),
        ({"profile": {}}, "profile must be what data_profile returned. Received: {}"),
        ({"drift": np.eye(2)}, "drift must be what drift_report returned"),
        ({"curve": "c"}, "curve must be what learning_curve returned. Received: 'c'"),
        ({"profile": PROFILE, "title": 3}, "title must be a string. Received: 3"),
    ],
)
def test_wrong_argument_is_named(arguments, match):
    """With what returns the right one."""
    with pytest.raises(ArgumentError, match=match):
        report_html(**arguments)
