"""Tables read in blocks: the same as line by line, whatever is in them."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import load_vectors
from embkeras.errors import EmbkerasError
from embkeras.vectors.io import delimited, plain_table
from tests.properties import PROPERTY

WORDS = [
    "a",
    "b",
    "",
    "x y",
    '"q,r"',
    '"a\nb"',
    '"a""b"',
    'a"b',
    '"',
    "\xff",
    "NA",
    "001",
    "1.0",
    " ",
    "\0",
    '""',
    '"x"',
]
NUMBERS = ["1", "0.5", "-2e3", " 1", "1 ", "", "x", "1_0", "nan", "1e39", "0.1234567890123456789", '"3"', "-.5"]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(WORDS),
        st.lists(st.sampled_from(NUMBERS[:5]) | st.sampled_from(NUMBERS), min_size=2, max_size=2),
        st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n", ",\n"]),
    ),
    max_size=6,
)


def read(path, **how):
    """Everything that a load returns, or its error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loaded = load_vectors(path, **how)
        except EmbkerasError as error:
            return str(error)
    counts = loaded.provenance.rows, loaded.provenance.duplicates, loaded.provenance.undecodable
    return list(loaded.words), loaded.matrix.tolist(), counts, [str(each.message) for each in caught]


def line_by_line(monkeypatch):
    """From now on no table is read in blocks."""
    monkeypatch.setattr(delimited, "read_plain", lambda *arguments: None)


@PROPERTY
@given(
    ROWS,
    st.booleans(),
    st.sampled_from([8, 64, plain_table._READ]),
    st.sampled_from([{}, {"words": ["A", "q,r"]}, {"limit": 2}, {"errors": "skip"}, {"encoding": "latin-1"}]),
)
def test_blocks_and_lines_agree(tmp_path_factory, rows, counted, size, how):
    """In words, values, counts, warnings and errors, with records across the edges of blocks."""
    path = tmp_path_factory.mktemp("table") / "t.csv"
    lines = (f"{f'{row},' * counted}{word},{','.join(numbers)}{end}" for row, (word, numbers, end) in enumerate(rows))
    text = ",word,0,1\n" if counted else "word,0,1\n"
    path.write_bytes((text + "".join(lines)).encode("latin-1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_table, "_READ", size)
        in_blocks = read(path, format="csv", **how)
        line_by_line(patch)
        assert in_blocks == read(path, format="csv", **how)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_usual_tables_are_read_in_blocks(tmp_path, monkeypatch, separator, counted, end):
    """Also with words in quotation marks, several lines of a word, and 9 digits; every value is what float() reads."""
    monkeypatch.setattr(delimited, "read_pairs", None)  # the way line by line
    monkeypatch.setattr(plain_table, "_READ", 512)
    values = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    marked = {1: f"a{separator}b", 2: 'a "b"', 3: "a\nb", 150: "x\n\ny"}
    words = [marked.get(row, f"w{row}") for row in range(200)]
    names = [""] * counted + ["word", "0", "1", "2"]
    lines = [separator.join(names)]
    for row, (word, numbers) in enumerate(zip(words, values.tolist(), strict=True)):
        field = '"{}"'.format(word.replace('"', '""')) if row in marked or row % 7 == 0 else word
        lines.append(separator.join([str(row)] * counted + [field] + [f"{x:.9g}" for x in numbers]))
    path = tmp_path / "t.dat"
    path.write_bytes(end.join([*lines, ""]).encode())
    loaded = load_vectors(path)
    assert list(loaded.words) == words and loaded.matrix.tobytes() == values.tobytes()
    some = load_vectors(path, words=["x\n\ny", "w199"])
    assert some.matrix.tobytes() == values[[150, 199]].tobytes()


def test_an_encoding_with_commas_in_characters(tmp_path):
    """Is read line by line."""
    path = tmp_path / "t.csv"
    path.write_bytes("word,0\n\u5b57,1\n".encode("iso2022_jp"))
    assert load_vectors(path, format="csv", encoding="iso2022_jp").words == ["\u5b57"]
