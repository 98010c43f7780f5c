"""align: one row a token id."""

import contextlib
import os
import signal
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras.layers import StringLookup

from embkeras import KeyedVectors, Vocabulary, _arrays, align, load_vectors, save_vectors
from embkeras.errors import AlignmentError, ArgumentError, OutputError
from embkeras.vectors import align as alignment
from embkeras.vectors.subwords import Subwords
from tests.processes import run_python
from tests.properties import PROPERTY
from tests.vectors.conftest import MATRIX, WORDS

NGRAMS = np.random.default_rng(2).normal(size=(30, 5)).astype("float32")


def test_rows_are_those_of_the_tokens(vectors, vocabulary):
    """Row i is the vector of token i, bit for bit."""
    aligned = align(vectors, vocabulary)
    np.testing.assert_array_equal(aligned.values[[2, 3]], MATRIX[[2, 1]])
    assert aligned.found.tolist() == [False, False, True, True, False, False]
    assert (aligned.values.dtype, aligned.output_dim) == (np.float32, 5)


@PROPERTY
@given(
    st.permutations(WORDS), st.lists(st.sampled_from([*WORDS, "x", "y"]), unique=True, min_size=1), st.integers(1, 12)
)
def test_rows_are_those_of_the_tokens_in_any_order(words, tokens, block):
    """In any order and with any block size."""
    tokens = ["the", *(token for token in tokens if token != "the")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_arrays, "BLOCK", block)
        aligned = align(KeyedVectors(words, MATRIX), Vocabulary(["", "[UNK]", *tokens]))
    for token, row, found in zip(tokens, aligned.values[2:], aligned.found[2:], strict=True):
        assert found == (token in words)
        assert not found or row.tobytes() == MATRIX[words.index(token)].tobytes()


@pytest.mark.parametrize("oov", ["normal", "mean", "zeros"])
def test_padding_row_is_zero(vectors, oov):
    """However the others are filled, and at any padding id."""
    aligned = align(vectors, Vocabulary(["cat", "[UNK]", ""], padding_id=2), oov=oov)
    assert not aligned.values[2].any()


def test_padding_that_is_a_word_is_zero(vectors):
    """A padding token spelt like a word of the vectors is not looked up."""
    aligned = align(vectors, Vocabulary(["cat", "[UNK]", "dog"], oov_ids=(1,)))
    assert not aligned.values[0].any()
    assert not aligned.found[0]


def test_oov_zeros(vectors, vocabulary):
    """Rows without a vector are zero."""
    assert not align(vectors, vocabulary, oov="zeros").values[[1, 4, 5]].any()


def test_oov_mean(vectors, vocabulary):
    """Rows without a vector are the mean of those found."""
    values = align(vectors, vocabulary, oov="mean").values
    np.testing.assert_allclose(values[[1, 4, 5]], np.tile(MATRIX[[1, 2]].mean(axis=0), (3, 1)), rtol=1e-6)


def test_oov_normal_has_the_columns_mean_and_deviation(vectors):
    """Drawn rows have the mean and the standard deviation of each column found."""
    tokens = ["", "[UNK]", *WORDS, *(f"x{i}" for i in range(4000))]
    drawn = align(vectors, Vocabulary(tokens)).values[6:]
    np.testing.assert_allclose(drawn.mean(axis=0), MATRIX.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(drawn.std(axis=0), MATRIX.std(axis=0), rtol=0.1)


def test_seed_decides(vectors, vocabulary):
    """The same seed draws the same rows, another seed others, and found rows never change."""
    first, again, other = (align(vectors, vocabulary, seed=seed).values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first[[1, 4, 5]] != other[[1, 4, 5]]).all()
    np.testing.assert_array_equal(first[[0, 2, 3]], other[[0, 2, 3]])


@pytest.mark.parametrize("oov", ["normal", "mean", "zeros"])
def test_memory_mapped_equals_in_memory(tmp_path, vectors, vocabulary, oov):
    """With out=, the matrix is the same, memory-mapped from a file."""
    mapped = align(vectors, vocabulary, oov=oov, out=tmp_path / "table.npy")
    np.testing.assert_array_equal(mapped.values, align(vectors, vocabulary, oov=oov).values)
    np.testing.assert_array_equal(np.load(tmp_path / "table.npy"), mapped.values)
    assert os.listdir(tmp_path) == ["table.npy"]


def test_memory_mapped_source(tmp_path, vocabulary):
    """A result may replace the file that the vectors are mapped from."""
    path = tmp_path / "table.npy"
    np.save(path, MATRIX)
    mapped = align(KeyedVectors(WORDS, np.load(path, mmap_mode="r")), vocabulary, oov="zeros", out=path)
    np.testing.assert_array_equal(mapped.values[[2, 3]], MATRIX[[2, 1]])


@pytest.mark.parametrize("out", [None, "table.npy"])
def test_values_are_read_only(tmp_path, vectors, vocabulary, out):
    """Initialiser and baseline of drift at once."""
    aligned = align(vectors, vocabulary, out=out and tmp_path / out)
    with pytest.raises(ValueError, match="read-only"):
        aligned.values[0] = 1


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_other_floats_become_float32(vocabulary, dtype):
    """Each value is the nearest float32."""
    values = align(KeyedVectors(WORDS, MATRIX.astype(dtype)), vocabulary).values
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[2], MATRIX.astype(dtype)[2].astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_vector_is_refused(vocabulary, value):
    """The message names the word and its row."""
    matrix = MATRIX.copy()
    matrix[1, 3] = value
    with pytest.raises(AlignmentError, match=r"NaN or infinity for 'dog' \(row 1 of the vectors\)"):
        align(KeyedVectors(WORDS, matrix), vocabulary)


def test_nonfinite_vector_of_no_token_is_let_be(vocabulary):
    """A row that no token needs is not checked."""
    matrix = MATRIX.copy()
    matrix[3] = np.nan
    assert np.isfinite(align(KeyedVectors(WORDS, matrix), vocabulary).values).all()


def test_vector_that_float32_cannot_hold_is_refused(tmp_path, vocabulary):
    """The message names the token, and the old file stays."""
    matrix = MATRIX.astype("float64")
    matrix[1, 3] = 1e39
    (tmp_path / "table.npy").write_text("before")
    with pytest.raises(AlignmentError, match=r"NaN or infinity.*'[dD]og'"):
        align(KeyedVectors(WORDS, matrix), vocabulary, oov="zeros", out=tmp_path / "table.npy")
    assert (tmp_path / "table.npy").read_text() == "before"


def test_nothing_found_is_refused(vectors):
    """The message shows tokens and words."""
    with pytest.raises(AlignmentError, match=r"None of 3 tokens is among 4 words .*\['xyz'\].*'cat'"):
        align(vectors, Vocabulary(["", "[UNK]", "xyz"]))


def test_unknown_oov_is_refused(vectors, vocabulary):
    """The message names the choices and the value received."""
    with pytest.raises(ArgumentError, match=r"normal, mean, zeros, subwords, or a function. Received: 'random'"):
        align(vectors, vocabulary, oov="random")


def test_unknown_fallback_is_refused(vectors, vocabulary):
    """The message names the value received."""
    with pytest.raises(ArgumentError, match="Received: 'stem'"):
        align(vectors, vocabulary, fallbacks=("stem",))


def test_fallbacks_are_tried_in_order(vectors):
    """The exact token wins, then the first fallback that finds a word."""
    aligned = align(vectors, Vocabulary(["", "[UNK]", "#Cat", "The"]), fallbacks=("lower", "hashtag"))
    assert aligned.how[2:] == (("cat", "lower+hashtag"), ("the", "lower"))


@pytest.fixture
def vector_file(tmp_path, vectors):
    """The four words as GloVe text."""
    return save_vectors(vectors, tmp_path / "vectors.txt")


def test_vectors_loaded_for_the_vocabulary_fit(vector_file, vocabulary):
    """Only the rows needed are read, and the result is that of all."""
    some = align(load_vectors(vector_file, words=vocabulary), vocabulary)
    np.testing.assert_array_equal(some.values, align(load_vectors(vector_file), vocabulary).values)


def test_vectors_loaded_for_other_words_are_refused(vector_file, vocabulary):
    """The message names the spelling that was not looked for, and its token."""
    with pytest.raises(AlignmentError, match=r"without looking for 'xyz', .*token 'xyz'"):
        align(load_vectors(vector_file, words=["car", "Dog"]), vocabulary)


def test_vectors_loaded_with_fewer_fallbacks_are_refused(vector_file, vocabulary):
    """The message names the spelling, its token and the fallbacks to load with."""
    vectors = load_vectors(vector_file, words=vocabulary, fallbacks=())
    with pytest.raises(AlignmentError, match=r"without looking for 'dog', .*token 'Dog'.*fallbacks=\('lower',\)"):
        align(vectors, vocabulary)


def test_vectors_loaded_with_more_fallbacks_fit(vector_file, vocabulary):
    """More spellings than needed do no harm."""
    vectors = load_vectors(vector_file, words=vocabulary, fallbacks=("lower", "hashtag"))
    np.testing.assert_array_equal(
        align(vectors, vocabulary).values, align(load_vectors(vector_file), vocabulary).values
    )


def test_out_below_a_file_is_refused(tmp_path, vectors, vocabulary):
    """The message names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write '.*file/table\.npy'"):
        align(vectors, vocabulary, out=tmp_path / "file" / "table.npy")


@pytest.mark.parametrize("before", [None, b"before"])
def test_killed_process_leaves_out_as_it_was(tmp_path, before):
    """kill -9 between the found rows and the others: the old file stays, or none is there."""
    path = tmp_path / "table.npy"
    if before:
        path.write_bytes(before)
    code = """
        import os, signal, sys
        import numpy as np
        from embkeras import KeyedVectors, Vocabulary, align
        from embkeras.vectors import align as alignment
        alignment._rows_of_oov = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL)
        align(KeyedVectors(["a"], np.ones((1, 2), "float32")), Vocabulary(["", "[UNK]", "a"]), out=sys.argv[1])
    """
    run_python("-c", code, path, returncode=-signal.SIGKILL)
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory that leaves out mapped files")
def test_table_that_memory_cannot_hold(tmp_path):
    """Made a store and aligned, of 256 MB, with 160 MB more than the vocabulary takes."""
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from embkeras import Vocabulary, align, load_vectors
        from embkeras.vectors.io.registry import convert
        folder, block, rows = Path(sys.argv[1]), np.random.default_rng(0).random((1000, 64), "float32"), 1_000_000
        with (folder / "v.bin").open("wb") as file:
            file.write(b"%d 64\\n" % rows)
            for number in range(rows):
                file.write(b"w%d %b\\n" % (number, (block[number % 1000] + number // 1000).tobytes()))
        vocabulary = Vocabulary(["", "[UNK]", *(f"w{number}" for number in reversed(range(rows)))])
        used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(used.split()[1]) + 160_000_000,) * 2)
        convert(folder / "v.bin", folder / "v.h5")
        aligned = align(load_vectors(folder / "v.h5"), vocabulary, out=folder / "v.npy")
        for number in (0, 123_456, 999_999):
            id_ = vocabulary.token_to_id[f"w{number}"]
            np.testing.assert_array_equal(aligned.values[id_], block[number % 1000] + number // 1000)
        try:
            np.ones_like(aligned.values)
        except MemoryError:
            print("no room for the table")
    """
    assert run_python("-c", code, tmp_path).stdout == "no room for the table\n"


@pytest.mark.parametrize(
    "given",
    [
        (np.eye(2), Vocabulary(["", "[UNK]"])),
        (KeyedVectors(["a"], np.ones((1, 2))), ["a"]),
        (None, None),
        (b"vectors", "words"),
    ],
)
def test_other_types_are_refused(given):
    """Both are shown."""
    with pytest.raises(ArgumentError, match=r"align takes KeyedVectors and a Vocabulary\. Received: "):
        align(*given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fallbacks": None}, "fallbacks must be a sequence. Received: None"),
        ({"fallbacks": b"lower"}, "Received: b'lower'"),
        ({"fallbacks": [["lower"]]}, r"Received: \['lower'\]"),
        ({"fallbacks": 3}, "Received: 3"),
        ({"seed": True}, "seed must be an integer >= 0. Received: True"),
        ({"seed": None}, "seed must .* Received: None"),
        ({"seed": -1}, "seed must .* Received: -1"),
        ({"seed": "1"}, "seed must .* Received: '1'"),
        ({"oov": b"mean"}, "oov must .* Received: b'mean'"),
        ({"out": 3}, "path must .* Received: 3"),
        ({"out": b"table.npy"}, "path must .* Received: b'table.npy'"),
        ({"out": ""}, "path must .* Received: ''"),
    ],
)
def test_arguments_of_other_types_are_refused(vectors, vocabulary, arguments, message):
    """The message shows the value."""
    with pytest.raises(ArgumentError, match=message):
        align(vectors, vocabulary, **arguments)


@pytest.mark.parametrize("at_once", [1, 3])
def test_tokens_are_looked_up_some_at_a_time(monkeypatch, at_once):
    """A million tokens would hold a million iterators; rows and spellings are the same."""
    words = ["cat", "dog", "Straße", "new york"]
    vectors = KeyedVectors(words, np.arange(8.0).reshape(4, 2).astype("float32"))
    vocabulary = Vocabulary(["", "[UNK]", "Dog", "CAT", "x", "Straße", "dog", "new york"])
    expected = align(vectors, vocabulary, oov="zeros")
    monkeypatch.setattr(alignment, "_TOKENS_AT_ONCE", at_once)
    aligned = align(vectors, vocabulary, oov="zeros")
    assert aligned.values.tolist() == expected.values.tolist() and aligned.how == expected.how


@pytest.fixture
def with_ngrams():
    """Four words, and the n-grams of a model that has no others."""
    return KeyedVectors(WORDS, MATRIX, subwords=Subwords(NGRAMS, min_n=4, max_n=6, buckets=30))


@pytest.fixture
def mixed():
    """Padding, [UNK], a word found, one with n-grams, one too short for any, a fallback."""
    return Vocabulary(["", "[UNK]", "car", "Übung", "x", "DOG"])


@pytest.mark.parametrize("out", [None, "table.npy"])
def test_subwords_compose_what_is_missing(tmp_path, with_ngrams, mixed, out):
    """From the token as it is spelt; rows found are those of the vectors."""
    values = align(with_ngrams, mixed, oov="subwords", out=out and tmp_path / out).values
    np.testing.assert_array_equal(values[3], with_ngrams.subwords.compose("Übung"))
    np.testing.assert_array_equal(values[[2, 5]], MATRIX[[2, 1]])


def test_subwords_draw_what_has_no_ngram(with_ngrams, mixed):
    """[UNK] is not a word and "x" is too short: both rows are drawn, each different, the same for the same seed."""
    first, again, other = (align(with_ngrams, mixed, oov="subwords", seed=seed).values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first[[1, 4]] != other[[1, 4]]).all()
    assert (first[1] != first[4]).all()
    assert not first[0].any()


def test_subwords_are_reported_and_not_found(with_ngrams, mixed):
    """`how` tells them from the drawn ones; neither counts as covered."""
    aligned = align(with_ngrams, mixed, oov="subwords")
    assert aligned.report()["how"].tolist() == ["special", "special", "exact", "subwords", "oov", "lower"]
    assert aligned.found.tolist() == [False, False, True, False, False, True]
    assert aligned.coverage.types == 2 / 4


def test_subwords_need_vectors_that_have_them(mixed):
    """The message names the vectors received."""
    with pytest.raises(ArgumentError, match=r'oov="subwords" needs vectors .* Received: KeyedVectors\(4 words'):
        align(KeyedVectors(WORDS, MATRIX), mixed, oov="subwords")


@pytest.mark.parametrize("oov", ["random", np.zeros(5), ["mean"], None])
def test_other_fills_are_refused(with_ngrams, mixed, oov):
    """A name that is not known, or a row where a function is wanted; the message names what there is."""
    with pytest.raises(ArgumentError, match=r"oov must be one of normal, .* or a function\. Received: "):
        align(with_ngrams, mixed, oov=oov)


def test_nonfinite_ngram_is_refused(mixed):
    """The message names the token."""
    ngrams = np.full((30, 5), np.nan, np.float32)
    with_ngrams = KeyedVectors(WORDS, MATRIX, subwords=Subwords(ngrams, min_n=4, max_n=6, buckets=30))
    with pytest.raises(AlignmentError, match="NaN or infinity from the n-grams of 'Übung'"):
        align(with_ngrams, mixed, oov="subwords")


def test_function_gives_the_rows(with_ngrams, mixed):
    """It is called for each token without a vector, including [UNK], and never for padding."""
    asked = []

    def length(token):
        asked.append(token)
        return [len(token)] * 5

    aligned = align(with_ngrams, mixed, oov=length)
    assert asked == ["[UNK]", "Übung", "x"]
    assert aligned.values[:, 0].tolist() == [0, 5, MATRIX[2, 0], 5, 1, MATRIX[1, 0]]
    assert aligned.report()["how"].tolist() == ["special", "special", "exact", "oov", "oov", "lower"]
    assert not aligned.found[[1, 3, 4]].any()


def test_function_may_leave_rows_to_be_drawn(with_ngrams, mixed):
    """Where it returns None, the row is drawn as with "normal"."""
    other = {"x": np.ones(5)}
    values = align(with_ngrams, mixed, oov=other.get).values
    np.testing.assert_array_equal(values[4], np.ones(5))
    assert values[[1, 3]].all()
    assert (values[1] != values[3]).all()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones(4), r"must return 5 numbers, .* Received: shape \(4,\), dtype float64 for the token '\[UNK\]'"),
        (np.ones((1, 5)), r"shape \(1, 5\), .* token '\[UNK\]'"),
        ([[1], [1, 2]], r"shape \(0,\), dtype object .* token '\[UNK\]'"),
        ("abcde", r"shape \(\), dtype <U5 .* token '\[UNK\]'"),
        ([np.nan] * 5, r"must be finite. Received: NaN or infinity for the token '\[UNK\]'"),
        ([1e39] * 5, r"must be finite. Received: NaN or infinity for the token '\[UNK\]'"),
    ],
)
def test_function_that_gives_no_row_is_refused(with_ngrams, mixed, answer, message):
    """The wrong shape, not numbers, or not finite in float32; the message names the token."""
    with pytest.raises(ArgumentError, match=message):
        align(with_ngrams, mixed, oov=lambda token: answer)


@pytest.mark.parametrize("oov", ["normal", "subwords", lambda token: None])
def test_several_oov_ids_get_rows_that_differ(with_ngrams, oov):
    """Each bucket of a StringLookup has a row of its own, so that training can tell them apart."""
    layer = StringLookup(vocabulary=["cat", "car"], num_oov_indices=3, mask_token="")
    values = align(with_ngrams, Vocabulary.from_layer(layer), oov=oov).values
    assert len(np.unique(values[1:4], axis=0)) == 3
    np.testing.assert_array_equal(values[[0, 4, 5]], [np.zeros(5), MATRIX[0], MATRIX[2]])


def test_progress_is_reported(monkeypatch):
    """From the first token to the last row, and in order."""
    told = []

    @contextlib.contextmanager
    def noted(name):
        yield lambda done, total: told.append((name, done, total))

    monkeypatch.setattr(alignment, "progress", noted)
    monkeypatch.setattr(alignment, "_TOKENS_AT_ONCE", 2)
    vectors = KeyedVectors(["cat", "sat"], np.eye(2, dtype=np.float32))
    vocabulary = Vocabulary(["", "[UNK]", "cat", "sat", "x", "y"])
    align(vectors, vocabulary, oov=lambda token: None if token == "x" else [1.0, 2.0])
    assert [done for _, done, _ in told] == [0, 2, 4, 6, 9, 10]
    assert {(name, total) for name, _, total in told} == {("aligning", 12)}
