"""Word similarity: files of scored pairs, and Spearman's correlation against a plain one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from embkeras import drift_report
from embkeras.drift.word_pairs import read_word_pairs
from embkeras.errors import ArgumentError, DataError

WORDS = ["a", "b", "c", "d", "e", "f"]
BEFORE, AFTER = np.random.default_rng(5).normal(size=(2, 6, 3)).astype(np.float32)


def write(tmp_path, text, encoding="utf-8"):
    """A file of pairs."""
    path = tmp_path / "pairs.txt"
    path.write_text(text, encoding)
    return path


def plain_spearman(one, other):
    """Pearson's correlation of ranks, where equal values share their mean rank."""

    def ranks(values):
        return [sum(x < y for x in values) + (sum(x == y for x in values) + 1) / 2 for y in values]

    one, other = ranks(one), ranks(other)
    means = [sum(each) / len(each) for each in (one, other)]
    cross = sum((x - means[0]) * (y - means[1]) for x, y in zip(one, other, strict=True))
    sizes = [sum((x - mean) ** 2 for x in each) for each, mean in ((one, means[0]), (other, means[1]))]
    return cross / (sizes[0] * sizes[1]) ** 0.5


def test_correlation_against_a_plain_one(tmp_path):
    """Before and after, with equal scores and pairs that have no row."""
    path = write(tmp_path, "a b 9\nA c 7\nb d 7\ne f 1\nc f 2.5\na x 3\ny z 4\n")
    result = drift_report(BEFORE, AFTER, WORDS).word_similarity(path)
    pairs, scores = [(0, 1), (0, 2), (1, 3), (4, 5), (2, 5)], [9, 7, 7, 1, 2.5]
    assert (result.found, result.pairs) == (5, 7)
    for table, found in ((BEFORE, result.before), (AFTER, result.after)):
        cosines = [table[i] @ table[j] / np.linalg.norm(table[i]) / np.linalg.norm(table[j]) for i, j in pairs]
        assert found == pytest.approx(plain_spearman(cosines, scores))
    assert result.before != result.after


@pytest.mark.parametrize(
    "text",
    [
        "a\tb\t1.5\nnew york\td\t-2e1\n",
        "# by people\nWord 1,Word 2,Human (mean)\na,b,1.5\nnew york,d,-20\n",
        "word1\tword2\tPOS\tSimLex999\tconc\na\tb\tA\t1.5\t7\n\nnew york\td\tN\t-20.\t8\n",
        '\ufeff"a";"b";1.5\r\n"new york";"d";-20\r\n',
    ],
    ids=["tabs", "columns", "SimLex-999", "quotes"],
)
def test_forms_of_files(tmp_path, text):
    """The first number behind the words is the score."""
    assert read_word_pairs(write(tmp_path, text)) == [("a", "b", 1.5), ("new york", "d", -20)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b 1\nc d\n", "line 2: expected two words and a score, found 'c d'"),
        ("a b 1\nc d high\n", "line 2: .* 'c d high'"),
        ("a b 1\n\tb\t1\n", "line 2"),
        ("a b nan\nc d inf\n", "line 2"),
        ("a b\n", "line 1"),
        ("", "contains no pairs"),
        ("word1 word2 score\n", "contains no pairs"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    """The file, the line and what is there."""
    with pytest.raises(DataError, match=rf"pairs\.txt'.*{message}"):
        read_word_pairs(write(tmp_path, text))


def test_files_that_can_not_be_read(tmp_path):
    """None, a folder, another encoding, and one that is not known."""
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path, "folder")):
        with pytest.raises(DataError, match=message):
            read_word_pairs(path)
    path = write(tmp_path, "é è 1\n", "latin-1")
    with pytest.raises(DataError, match=r"not valid utf-8.*encoding="):
        read_word_pairs(path)
    assert read_word_pairs(path, encoding="latin-1") == [("é", "è", 1)]
    with pytest.raises(ArgumentError, match=r"encoding must .* Received: 'martian'"):
        read_word_pairs(path, encoding="martian")


@pytest.mark.parametrize("text", ["a b 1\n", "x y 1\nz z 2\n"])
def test_too_few_pairs(tmp_path, text):
    """A correlation of one pair would be no figure."""
    with pytest.raises(ArgumentError, match=r"two pairs .* Received: [01] of [12]"):
        drift_report(BEFORE, AFTER, WORDS).word_similarity(write(tmp_path, text))


@pytest.mark.parametrize(("name", "count", "first"), [("wordsim353.tsv", 353, 6.77), ("simlex999.txt", 999, 1.58)])
def test_real_files(name, count, first):
    """WordSim-353 and SimLex-999 as they lie in gensim's package."""
    spec = importlib.util.find_spec("gensim")
    if spec is None:
        pytest.skip("needs gensim")
    pairs = read_word_pairs(Path(spec.submodule_search_locations[0], "test", "test_data", name))
    assert len(pairs) == count and pairs[0].score == first
    assert all(0 <= pair.score <= 10 for pair in pairs)
