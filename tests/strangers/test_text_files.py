"""The smallest file of each kind of text vectors that people bring: what it is read as, or which argument its error names."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from embkeras import load_vectors
from embkeras.errors import EmbkerasWarning, VectorFileError

FOLDER = Path(__file__).parent / "text"
THREE, TWO = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], [[0.1, 0.2], [0.3, 0.4]]
# file, arguments -> words and values
READ = [
    ("wikipedia2vec.txt", {}, ["the", "ENTITY/New York", "ENTITY/Area 51"], THREE),
    ("wikipedia2vec_header.txt", {}, ["the", "ENTITY/Area 51"], THREE[:2]),
    ("aligned_columns.txt", {}, ["cat", "dog"], [[0.1, -0.2], [-0.3, 0.4]]),
    ("aligned_integers.txt", {}, ["cat", "dog"], [[1, -2], [-3, 4]]),
    ("aligned_words.txt", {"separator": "whitespace"}, ["cat", "mouse"], TWO),
    ("aligned_words.txt", {"separator": " "}, ["cat  ", "mouse"], TWO),
    ("numbers_only.txt", {"width": 2}, ["0.1", "0.4"], [[0.2, 0.3], [0.5, 0.6]]),
    ("ids_without_header.txt", {}, ["1", "2"], TWO),
    ("node2vec.txt", {}, ["1", "2"], [[1, 2], [3, 4]]),
    ("comma_and_spaces.txt", {"separator": (",", " ")}, ["a", "b"], [[1, 0, 0], [0, 1, 0]]),
    ("comma_and_spaces.txt", {"separator": " "}, ["a,1", "b,0"], [[0, 0], [1, 0]]),
    ("commas.csv", {}, ["a", "b"], TWO),
    ("tabs.tsv", {}, ["a", "new york"], TWO),
    ("words_with_commas.txt", {}, ["10,000", "the"], TWO),
    ("carriage_returns.txt", {}, ["cat", "dog"], TWO),
    ("header_with_blanks.txt", {}, ["a", "b"], TWO),
    ("header_with_tabs.txt", {}, ["a", "b"], TWO),
    ("two_trailing_blanks.txt", {}, ["a", "b"], TWO),
    ("one_value_too_few.txt", {"width": 2}, ["a", "b 1", "c 1"], [[1, 2], [2, 3], [2, 3]]),
    ("spaces_and_tabs.txt", {}, ["a", "b", "c"], THREE),
    ("space_then_tabs.txt", {"separator": (" ", "\t")}, ["a"], THREE[:1]),
    ("space_then_tabs.txt", {"separator": "\t", "width": 2}, ["a 0.1"], [[0.2, 0.3]]),
    ("number_at_the_end.txt", {"width": 2}, ["web 2.0", "the"], TWO),
    ("utf16.txt", {"encoding": "utf-16"}, ["the", "на\u00efve"], TWO),
    ("little_endian.bin", {}, ["a", "b"], [[0.1, 0.2, -0.3], [0.5, 0.25, 1]]),
]
# file, arguments -> what is read, and what the warning says
WARNED = [
    ("count_too_high.txt", {"header": "ignore"}, ["a", "b"], TWO, "says 3 rows of 2 numbers, but the file has 2 of 2"),
    ("width_too_high.txt", {"header": "ignore"}, ["a", "b"], TWO, "says 2 rows of 3 numbers, but the file has 2 of 2"),
    (
        "cut_in_the_last_number.txt",
        {},
        ["a", "b"],
        [[0.123, 0.234], [0.345, 0.4]],
        "doesn't end with a newline.* b'0.4' ",
    ),
]
# file -> what the error says: the place, what was found, the way on
REFUSED = [
    ("aligned_words.txt", r"line 1: b'cat   0.1 0.2'.*separator=' ' .*'cat  '.*separator='whitespace' .*'cat'"),
    ("numbers_only.txt", r"line 1: every field is a number, found b'0.1 0.2 0.3'.*width=2.*words_file="),
    ("ids_repeated.txt", "line 1: every field is a number, found b'1 0.1 0.2'.*width=2"),
    ("comma_and_spaces.txt", r"line 1: b'a,1 0 0'.*separator=' ' and width=2.*separator=\(',', ' '\) and width=3"),
    ("mixed_line_ends.txt", r"line 1: expected a word and 2 numbers, found b'cat 0.1 0.2\\rdog 0.3 0.4'"),
    ("one_value_too_few.txt", "line 1: expected a word and 3 numbers, found b'a 1 2'.*width=3"),
    ("negative_header.txt", "line 1: expected a header .*, found b'-1 -1'"),
    ("prose_with_header.txt", "line 2: expected a word and 2 numbers, found b'the cat sat'.*header=False"),
    ("space_then_tabs.txt", r"line 1: .*separator='\\t' and width=2 .*separator='whitespace' and width=3"),
    ("decimal_commas.txt", "line 2: expected .*decimal point, found b'0,2'.*commas"),
    ("number_at_the_end.txt", "line 2: expected a word and 2 numbers, found b'web 2.0 0.1 0.2'.*width=2"),
    ("rows_joined.txt", "line 2: expected a word and 2 numbers, found b'b 0.3 0.4c 0.5 0.6'"),
    ("count_too_high.txt", 'line 1: the header says 3 rows, but the file has 2.*header="ignore"'),
    ("width_too_high.txt", "line 2: expected a word and 3 numbers, found b'a 0.1 0.2'.*header=\"ignore\""),
    ("utf16.txt", r"UTF-16, by its first bytes b'\\xff\\xfe'.*encoding=\"utf-16\""),
    ("big_endian.bin", r"big-endian, by their sizes: the first is 0.1, and -4.295e\+08"),
]


@pytest.mark.parametrize("words", ["all", "asked for"])
@pytest.mark.parametrize(("name", "arguments", "expected", "values"), READ)
def test_right_words_and_values(name, arguments, expected, values, words):
    """Every word, and every value as float() reads it, without a warning; the same if the words are asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_vectors(FOLDER / name, words=None if words == "all" else expected, **arguments)
    assert list(loaded.words) == expected
    assert loaded.matrix.tolist() == np.array(values, np.float32).tolist()


@pytest.mark.parametrize(("name", "arguments", "expected", "values", "said"), WARNED)
def test_read_with_a_warning(name, arguments, expected, values, said):
    """The file may be cut off, or its header is wrong; the warning is at the caller's line."""
    with pytest.warns(EmbkerasWarning, match=said) as caught:
        loaded = load_vectors(FOLDER / name, **arguments)
    assert [warning.filename for warning in caught] == [__file__]
    assert (list(loaded.words), loaded.matrix.tolist()) == (expected, np.array(values, np.float32).tolist())


@pytest.mark.parametrize(("name", "said"), REFUSED)
def test_refused_with_the_way_on(name, said):
    """The error has the line, what was found, and the argument that decides."""
    with pytest.raises(VectorFileError, match=said) as raised:
        load_vectors(FOLDER / name)
    assert name in str(raised.value)


def test_every_file_is_in_a_table():
    """No stranger is forgotten."""
    tabled = {row[0] for table in (READ, WARNED, REFUSED) for row in table}
    assert tabled == {path.name for path in FOLDER.iterdir() if not path.name.startswith(".")}
