"""What inspect and coverage report about a file."""

import gzip
from functools import partial

import numpy as np
import pytest

from embkeras import KeyedVectors, save_vectors
from embkeras.errors import AlignmentError, ArgumentError, VectorFileError
from embkeras.text.tokenizer import WORDS
from embkeras.vectors.inspection import inspect_vectors, odd_words, text_coverage

TEXT = "cat 3 4\nnew york 0 0\nNaN 0 1\ncat 1 1\n\u00a0 0 2\n"


@pytest.fixture
def path(tmp_path):
    """A text with a true header, a repeated word and odd ones."""
    path = tmp_path / "v.vec"
    path.write_text("5 2\n" + TEXT, encoding="utf-8")
    return path


def test_everything_it_reports(path):
    """Format, rows, header, repeated and odd words, norms, memory, both ends."""
    report = inspect_vectors(path)
    assert (report.format, report.compression, report.file_bytes) == ("word2vec", None, path.stat().st_size)
    assert (report.rows, report.width, report.header, report.fault) == (5, 2, (5, 2), None)
    assert (report.duplicates, report.undecodable, report.memory) == (1, 0, 4 * 4 * 2)
    assert (report.norms.smallest, report.norms.mean, report.norms.largest) == (0, 2, 5)
    assert report.norms.zero_rows == 1
    assert report.odd["with a space"] == (1, ["new york"])
    assert report.first == report.last == ["cat", "new york", "NaN", "\u00a0"]


def test_compressed(path, tmp_path):
    """The compression is recognised by the file's contents."""
    packed = tmp_path / "v.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    report = inspect_vectors(packed)
    assert (report.format, report.compression, report.rows) == ("word2vec", "gz", 5)


def test_no_header(tmp_path):
    """GloVe's text has none."""
    report = inspect_vectors(save_vectors(KeyedVectors(["a"], np.ones((1, 2), "float32")), tmp_path / "v.txt"))
    assert report.header is None


@pytest.mark.parametrize("between", [" ", "\t", "  "])
@pytest.mark.parametrize("said", [3, 9])
def test_wrong_header(path, said, between):
    """All rows are read, and the error with which the file is refused is reported, for every header that is read."""
    path.write_text(f"{said}{between}2\n" + TEXT + "\n", encoding="utf-8")
    report = inspect_vectors(path)
    assert (report.rows, report.header) == (5, (said, 2))
    assert f"{said} rows" in report.fault


@pytest.mark.parametrize("path", [None, b"v.vec", 3, ""])
def test_other_than_a_path_is_refused(path):
    """Both functions refuse it."""
    for call in (inspect_vectors, partial(text_coverage, texts=["a"], tokenizer=WORDS)):
        with pytest.raises(ArgumentError, match=r"path must be a path.* Received: "):
            call(path)


def test_undecodable_words_are_counted(path):
    """Such words are counted, and the file is not refused."""
    path.write_bytes(b"2 1\n\xff\xfe 1\nb 2\n")
    report = inspect_vectors(path)
    assert report.undecodable == 1 and report.odd["with U+FFFD"][0] == 1
    assert inspect_vectors(path, encoding="latin-1").first == ["ÿþ", "b"]


def test_other_damage_is_raised(path):
    """As load_vectors raises it."""
    path.write_text("2 2\na 1 2\nb 3\n")
    with pytest.raises(VectorFileError, match="line 3"):
        inspect_vectors(path)
    with pytest.raises(VectorFileError, match="there is no such file"):
        inspect_vectors(path.with_name("absent"))


def test_store_is_checked_whole(tmp_path):
    """A flipped bit in its matrix, which opening it does not see."""
    path = save_vectors(KeyedVectors(["a", "b"], np.array([[1.5, 2.25], [3.125, 4]], "float32")), tmp_path / "v.h5")
    assert inspect_vectors(path).format == "store"
    contents = bytearray(path.read_bytes())
    contents[contents.find(np.float32(3.125).tobytes())] ^= 1
    path.write_bytes(contents)
    with pytest.raises(VectorFileError, match=r"v\.h5"):
        inspect_vectors(path)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("", "empty"),
        (". . .", "with a space"),
        ("a\u00a0b", "with a no-break space (U+00A0)"),
        ("a\u2028b", "with another space or end of line"),
        ("a\x85b", "with another space or end of line"),
        ("a\tb", "with another space or end of line"),
        ("a\x00b", "with a control character"),
        ("a\ufffdb", "with U+FFFD"),
        ('a"b', "with a quotation mark"),
        ("null", "that pandas reads as missing"),
        ("N/A", "that pandas reads as missing"),
    ],
)
def test_kinds_of_odd_words(word, kind):
    """Each kind is found in a word that is odd in no other way."""
    assert odd_words(["cat", word]) == {kind: (1, [word])}


@pytest.mark.parametrize("word", ["cat", "nano", "nullify", "naïve", "日本", "-", "don't"])
def test_ordinary_words_are_not_odd(word):
    """Nor what only begins as a missing value does."""
    assert not odd_words([word])


def test_only_the_first_few_are_shown():
    """All odd words are counted, and the first 5 are shown."""
    count, shown = odd_words([f"{number} {number}" for number in range(99)])["with a space"]
    assert (count, len(shown)) == (99, 5)


@pytest.mark.filterwarnings("ignore::embkeras.errors.EmbkerasWarning")
def test_coverage_of_a_text(path):
    """By distinct and by running words, with the spelling that was found."""
    aligned = text_coverage(path, ["Cat cat dog", "cat"], tokenizer=WORDS)
    assert (aligned.coverage.types, aligned.coverage.tokens) == (1 / 2, 3 / 4)


@pytest.mark.filterwarnings("ignore::embkeras.errors.EmbkerasWarning")
def test_coverage_of_nothing(path):
    """A file without any of the words is probably in another language."""
    with pytest.raises(AlignmentError, match="None of"):
        text_coverage(path, ["wolf"], tokenizer=WORDS)
