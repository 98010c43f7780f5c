"""fastText's binary models, and the position in a binary file."""

import contextlib
import gzip
import lzma
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, Vocabulary, align, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io import fasttext_binary
from embkeras.vectors.io.fasttext_binary import Cursor
from embkeras.vectors.io.source import Source
from embkeras.vectors.subwords import Subwords, ngram_rows
from tests.properties import PROPERTY, read_or_refused

WORDS = ["the", "naïve", "日本", "</s>", "x", "word"]
BUCKETS, WIDTH = 40, 5
INPUT = np.random.default_rng(1).normal(size=(len(WORDS) + BUCKETS, WIDTH)).astype("float32")


def packed(
    words=WORDS,
    *,
    version=12,
    matrix=INPUT,
    lengths=(3, 6),
    buckets=BUCKETS,
    labels=(),
    model=2,
    pruned=-1,
    quantised=(False, False),
    sizes=None,
    shape=None,
):
    """A model as fastText writes it; version None is that of the first releases, which wrote no version."""
    raw = [word if isinstance(word, bytes) else word.encode() for word in [*words, *labels]]
    width = matrix.shape[1]
    arguments = (width, 5, 5, 1, 5, 1, 2, model, buckets, *lengths, 100, 1e-4)
    parts = [] if version is None else [struct.pack("<2i", 793712314, version)]
    parts += [
        struct.pack("<12id", *arguments),
        struct.pack("<3iq", *(sizes or (len(raw), len(words), len(labels))), 99),
    ]
    parts += [] if version is None else [struct.pack("<q", pruned)]
    parts += [word + b"\0" + struct.pack("<qb", 7, i >= len(words)) for i, word in enumerate(raw)]
    for flag, values, said in zip(quantised, (matrix, np.ones((3, width), "float32")), (shape, None), strict=True):
        parts += [] if version is None else [struct.pack("<?", flag)]
        parts += [struct.pack("<2q", *(said or values.shape)), values.astype("<f4").tobytes()]
    return b"".join(parts)


def by_definition(word, *, min_n=3, max_n=6, words=WORDS, matrix=INPUT, whole=b"</s>"):
    """The mean of the row of the word, if it has one, and of the rows of its n-grams."""
    raw = word if isinstance(word, bytes) else word.encode()
    rows = len(words) + ngram_rows([raw], min_n=min_n, max_n=max_n, buckets=BUCKETS, whole=whole)[0]
    return matrix[[*([words.index(word)] if word in words else []), *rows]].mean(axis=0, dtype="float64")


@pytest.fixture
def written(tmp_path):
    """Write a model to a file whose name says nothing."""

    def write(contents, name="model"):
        path = tmp_path / name
        path.write_bytes(contents)
        return path

    return write


@pytest.mark.parametrize("version", [12, 11, None])
def test_vectors_are_means_of_word_and_ngrams(written, version):
    """In every version; only the first releases made n-grams of the end of a sentence."""
    loaded = load_vectors(written(packed(version=version)))
    assert (loaded.words, loaded.provenance.format, loaded.provenance.rows) == (WORDS, "fasttext-binary", len(WORDS))
    for word in WORDS:
        expected = by_definition(word, whole=None if version is None else b"</s>")
        np.testing.assert_allclose(loaded[word], expected, rtol=1e-5, atol=1e-6)
    assert loaded.matrix.dtype == np.float32


def test_subwords_are_those_of_the_model(written):
    """They give vectors to words that are not in the file, and are mapped rather than read."""
    subwords = load_vectors(written(packed())).subwords
    assert (subwords.min_n, subwords.max_n, subwords.buckets) == (3, 6, BUCKETS)
    np.testing.assert_array_equal(subwords.matrix, INPUT[len(WORDS) :])
    np.testing.assert_allclose(subwords.compose("unseen"), by_definition("unseen"), rtol=1e-5, atol=1e-6)
    base = subwords.matrix
    while not isinstance(base, np.memmap):
        base = base.base
    assert not subwords.matrix.flags.writeable


def test_align_composes_what_is_not_there(written):
    """Wanted words that are missing from the file are not among the words; align composes them from n-grams."""
    vocabulary = Vocabulary(["", "[UNK]", "naïve", "naïvely", "the"])
    loaded = load_vectors(written(packed()), words=vocabulary)
    assert loaded.words == ["the", "naïve"]
    aligned = align(loaded, vocabulary, oov="subwords")
    np.testing.assert_allclose(aligned.values[3], by_definition("naïvely"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aligned.values[2], by_definition("naïve"), rtol=1e-5, atol=1e-6)


def test_words_and_limit_select(written):
    """Only the wanted vectors are computed, and they equal those of a full load."""
    path = written(packed())
    whole = load_vectors(path)
    some = load_vectors(path, words=["日本", "THE", "none"])
    assert some.words == ["the", "日本"]
    assert some.matrix.tobytes() == whole.matrix[[0, 2]].tobytes()
    head = load_vectors(path, limit=2)
    assert (head.words, head.provenance.rows) == (WORDS[:2], 2)
    assert load_vectors(path, words=["none"]).matrix.shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("lengths", "min_n"), [((0, 0), None), ((3, 0), None), ((5, 3), None), ((0, 3), 1), ((1, 2), 1), ((6, 6), 6)]
)
def test_lengths_of_ngrams(written, lengths, min_n):
    """No n-grams where the longest is 0 or below the shortest; a shortest of 0 is one of 1."""
    loaded = load_vectors(written(packed(lengths=lengths)))
    if min_n is None:
        assert loaded.subwords is None
        np.testing.assert_array_equal(loaded.matrix, INPUT[: len(WORDS)])
    else:
        assert (loaded.subwords.min_n, loaded.subwords.max_n) == (min_n, lengths[1])
        expected = by_definition("naïve", min_n=min_n, max_n=lengths[1])
        np.testing.assert_allclose(loaded["naïve"], expected, rtol=1e-5, atol=1e-6)


def test_model_without_buckets(written):
    """As fastText writes it where there are no n-grams."""
    loaded = load_vectors(written(packed(lengths=(0, 0), buckets=0, matrix=INPUT[: len(WORDS)])))
    np.testing.assert_array_equal(loaded.matrix, INPUT[: len(WORDS)])


@pytest.mark.parametrize("version", [12, 11, None])
def test_supervised_models_give_their_words(written, version):
    """Labels have no vectors. Supervised models before version 12 used no character n-grams, although their arguments say so."""
    loaded = load_vectors(written(packed(version=version, labels=["__label__a", "__label__b"], model=3)))
    assert loaded.words == WORDS
    assert (loaded.subwords is None) == (version != 12)
    expected = by_definition("naïve") if version == 12 else INPUT[1]
    np.testing.assert_allclose(loaded["naïve"], expected, rtol=1e-5, atol=1e-6)


def test_bytes_are_hashed_as_they_are(written):
    """Of another encoding, the n-grams are those of the bytes in the file, for words out of it, too."""
    raw = ["už".encode("cp852"), "být".encode("cp852")]
    path = written(packed(raw, matrix=INPUT[: 2 + BUCKETS]))
    loaded = load_vectors(path, encoding="cp852")
    assert loaded.words == ["už", "být"]
    of_file = {"words": raw, "matrix": INPUT}
    np.testing.assert_allclose(loaded["být"], by_definition(raw[1], **of_file), rtol=1e-5, atol=1e-6)
    unseen = loaded.subwords.compose("užití")
    np.testing.assert_allclose(unseen, by_definition("užití".encode("cp852"), **of_file), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("errors", "words"), [("replace", ["ok", "\ufffd", "é"]), ("skip", ["ok", "é"])])
def test_undecodable_words(written, errors, words):
    """Counted; their vectors are those of their bytes."""
    raw = ["ok", b"\xff", "é"]
    loaded = load_vectors(written(packed(raw, matrix=INPUT[: 3 + BUCKETS])), errors=errors)
    assert (loaded.words, loaded.provenance.undecodable) == (words, 1)
    np.testing.assert_allclose(loaded["é"], by_definition("é", words=raw, matrix=INPUT), rtol=1e-5, atol=1e-6)


def test_undecodable_words_are_refused(written):
    """The message names the byte and the word."""
    contents = packed(["ok", b"\xff", "é"], matrix=INPUT[: 3 + BUCKETS])
    place = contents.index(b"\xff\0")
    with pytest.raises(VectorFileError, match=rf"byte {place:,}: the word b'\\xff' is not valid utf-8"):
        load_vectors(written(contents))


def test_duplicates_are_counted(written):
    """The first row is kept."""
    words = ["a", "b", "a"]
    with pytest.warns(EmbkerasWarning, match="has 1 rows with a repeated word"):
        loaded = load_vectors(written(packed(words, matrix=INPUT[: 3 + BUCKETS])))
    np.testing.assert_allclose(loaded["a"], by_definition("a", words=words, matrix=INPUT), rtol=1e-5, atol=1e-6)


def test_float16_is_rounded_once(written):
    """From the float32 vector."""
    path = written(packed())
    np.testing.assert_array_equal(
        load_vectors(path, dtype="float16").matrix, load_vectors(path).matrix.astype("float16")
    )


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_compressed_models(written, compress):
    """With the same vectors, and with their n-grams."""
    plain = load_vectors(written(packed()))
    loaded = load_vectors(written(compress(packed()), "compressed"))
    assert loaded.words == WORDS
    assert loaded.matrix.tobytes() == plain.matrix.tobytes()
    np.testing.assert_array_equal(loaded.subwords.matrix, plain.subwords.matrix)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_do_not_matter(written, monkeypatch, size):
    """Entries that lie across what is read at once, and words worked out in several batches."""
    whole = load_vectors(written(packed()))
    monkeypatch.setattr(fasttext_binary, "_BUFFER", size)
    monkeypatch.setattr(fasttext_binary, "_BATCH", 2)
    for contents in (packed(), gzip.compress(packed())):
        loaded = load_vectors(written(contents))
        assert loaded.words == WORDS
        assert loaded.matrix.tobytes() == whole.matrix.tobytes()


@pytest.mark.parametrize("version", [12, None])
@pytest.mark.parametrize("compressed", [False, True])
def test_cut_off_anywhere_is_refused(written, version, compressed):
    """Also in the output matrix, of which nothing is used."""
    contents = packed(version=version)
    for end in [*range(1, 200), *range(200, len(contents), 13), len(contents) - 1]:
        path = written(gzip.compress(contents[:end]) if compressed else contents[:end])
        with pytest.raises(VectorFileError, match=r"expected|holds no|Cannot"):
            load_vectors(path, format="fasttext-binary")
        with pytest.raises(VectorFileError):
            load_vectors(path)


def test_more_than_a_model_is_refused(written):
    """The message shows the bytes after it."""
    with pytest.raises(VectorFileError, match=r"expected the end of the file, found b'more'"):
        load_vectors(written(packed() + b"more"))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sizes": (2**31 - 1, 2**31 - 1, 0)}, "of the dictionary"),
        ({"buckets": 2**31 - 1}, r"expected a matrix of shape \(2147483653, 5\): words and buckets"),
        ({"buckets": 2**31 - 1, "shape": (2**31 + 5, 5)}, "matrix"),
        ({"shape": (10**12, 300)}, r"found \(1000000000000, 300\)"),
    ],
)
def test_header_that_lies_allocates_nothing(written, changed, message, compressed):
    """Claims are compared with each other and with the file, or checked as the data is read."""
    contents = packed(**changed)
    path = written(gzip.compress(contents) if compressed else contents)
    tracemalloc.start()
    with pytest.raises(VectorFileError, match=message):
        load_vectors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 13}, "byte 4: expected version 11 or 12, found version 13"),
        ({"quantised": (True, False)}, r"expected a matrix of float32, found a quantised one \(an \.ftz model\)"),
        ({"quantised": (False, True)}, "expected an output matrix of float32, found a quantised one"),
        ({"pruned": 0}, "byte 84: expected a complete model, found one that was pruned to 0 n-grams"),
        ({"pruned": 9}, "pruned to 9 n-grams"),
        ({"lengths": (3, 2**30)}, "byte 8: expected the arguments of a fastText model"),
        ({"buckets": -1}, "expected the arguments of a fastText model"),
        ({"sizes": (7, 6, 0)}, "byte 64: expected as many entries as words and labels"),
        ({"sizes": (6, 5, 1)}, "expected a label as entry 5 of the dictionary, found kind 0 .word b'word'."),
        ({"labels": ["__label__a"], "sizes": (7, 7, 0)}, "expected a word as entry 6 of the dictionary, found kind 1"),
        ({"matrix": INPUT[:-1]}, r"expected a matrix of shape \(46, 5\): words and buckets, width, found \(45, 5\)"),
        ({"words": ["x" * 70_000, *WORDS[1:]]}, "expected words of at most 65,536 bytes, found a longer one"),
        ({"words": [], "matrix": INPUT[:BUCKETS]}, "contains no vectors"),
    ],
)
def test_what_is_no_plain_model_is_refused(written, changed, message):
    """The message names the place, what was expected and what was found."""
    with pytest.raises(VectorFileError, match=message):
        load_vectors(written(packed(**changed)))


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (-np.inf, "float32"), (3e5, "float16")])
def test_numbers_that_are_not_finite_are_refused(written, value, dtype, recwarn):
    """The message names the entry and the word, and NumPy adds no warning."""
    matrix = INPUT.copy()
    matrix[4, 2] = value
    with pytest.raises(VectorFileError, match=rf"expected finite {dtype} numbers.*entry 4 \(word b'x'\)"):
        load_vectors(written(packed(matrix=matrix)), dtype=dtype)
    assert not list(recwarn)


@pytest.mark.parametrize(
    "contents", [b"the 0.1 0.2\n" * 20, b"2 2\nab \0\0\0\0\0\0\0\0" + b"\0" * 90, b"\0" * 200, b"\x05\0\0\0" * 50]
)
def test_other_files_are_not_taken_for_models(written, contents):
    """A file without the magic number has to have possible arguments."""
    assert not fasttext_binary.recognises(fasttext_binary.Source(written(contents)))


def test_progress_is_told(written):
    """Of the words worked out."""
    told = []
    path = written(packed())
    request = fasttext_binary.Request(progress=lambda done, size: told.append((done, size)))
    fasttext_binary.read(fasttext_binary.Source(path), request)
    assert told == [(len(WORDS), len(WORDS))]


def test_it_cannot_be_written(tmp_path):
    """There is no training state to write."""
    with pytest.raises(ArgumentError, match="fasttext-binary"):
        save_vectors(KeyedVectors(["a"], INPUT[:1]), tmp_path / "v.bin", format="fasttext-binary")


@pytest.mark.filterwarnings("ignore::embkeras.errors.EmbkerasWarning")
@PROPERTY
@given(st.data())
def test_damage_never_escapes(tmp_path, data):
    """Whatever bytes are put in the place of others, it is read or refused."""
    contents = packed(version=data.draw(st.sampled_from([12, 11, None])))
    start = data.draw(st.integers(0, 250) | st.integers(0, len(contents)))
    read_or_refused(tmp_path / "v", contents, start, data, "fasttext-binary")


@pytest.fixture
def specimens():
    """Models that fastText wrote."""
    return Path(pytest.importorskip("gensim").__file__).parent / "test" / "test_data"


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("lee_fasttext", "utf-8"),
        ("crime-and-punishment", "utf-8"),
        ("toy-model", "utf-8"),
        ("pang_lee_polarity_fasttext", "cp1252"),
    ],
)
def test_specimens_equal_the_text_that_fasttext_wrote(specimens, name, encoding):
    """No magic number, version 12, a supervised model: the same words, and each of the five digits of the `.vec`."""
    ours = load_vectors(specimens / f"{name}.bin", encoding=encoding)
    text = load_vectors(specimens / f"{name}.vec", encoding=encoding)
    assert (ours.words, ours.provenance.format) == (text.words, "fasttext-binary")
    rounded = [float(f"{value:.5g}") for value in ours.matrix.ravel().tolist()]
    np.testing.assert_array_equal(np.array(rounded, np.float32), text.matrix.ravel())


@pytest.mark.parametrize(
    "name",
    [
        "lee_fasttext",
        "lee_fasttext_new",
        "crime-and-punishment",
        "non_ascii_fasttext",
        "toy-model",
        "toy-model-pretrained",
    ],
)
def test_specimens_equal_gensims(specimens, name):
    """Words, and words out of the file. gensim makes n-grams of "</s>", which fastText does no longer."""
    theirs = pytest.importorskip("gensim.models").fasttext.load_facebook_vectors(specimens / f"{name}.bin")
    ours = load_vectors(specimens / f"{name}.bin")
    assert ours.words == theirs.index_to_key
    same = [row for row, word in enumerate(ours.words) if word != "</s>" or name == "lee_fasttext"]
    np.testing.assert_allclose(ours.matrix[same], theirs.vectors[same], rtol=0, atol=1e-6)
    for word in ("unseenword", "člověkem"):
        np.testing.assert_allclose(ours.subwords.compose(word), theirs[word], rtol=0, atol=1e-6)


def test_specimen_of_another_encoding(specimens):
    """Words in cp852. gensim hashes them as if they were UTF-8, so that its vectors are not those of fastText."""
    path = specimens / "cp852_fasttext.bin"
    theirs = pytest.importorskip("gensim.models").fasttext.load_facebook_vectors(path, encoding="cp852")
    ours = load_vectors(path, encoding="cp852")
    assert ours.words == theirs.index_to_key
    ascii_rows = [row for row, word in enumerate(ours.words) if word.isascii()]
    np.testing.assert_allclose(ours.matrix[ascii_rows], theirs.vectors[ascii_rows], rtol=0, atol=1e-6)


def test_model_that_gensim_writes(tmp_path):
    """gensim's own writer of the format."""
    models = pytest.importorskip("gensim.models")
    texts = [["naïveté", "café", "日本", "word"], ["the", "cat", "sat", "日本"]] * 3
    model = models.FastText(texts, vector_size=8, min_count=1, min_n=3, max_n=5, bucket=97, epochs=2, workers=1)
    models.fasttext.save_facebook_model(model, str(tmp_path / "g.bin"))
    ours = load_vectors(tmp_path / "g.bin")
    assert ours.words == model.wv.index_to_key
    np.testing.assert_allclose(ours.matrix, model.wv.vectors, rtol=0, atol=1e-6)
    assert isinstance(ours.subwords, Subwords)


CONTENTS = bytes(range(100))


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def at_start(request, tmp_path, monkeypatch):
    """A cursor before 100 bytes, read in sevens."""
    monkeypatch.setattr(fasttext_binary, "_BUFFER", 7)
    (tmp_path / "file").write_bytes(gzip.compress(CONTENTS) if request.param else CONTENTS)
    with contextlib.closing(Cursor(Source(tmp_path / "file"))) as opened:
        yield opened


def test_takes_skips_and_parts(at_start):
    """In any order; the place follows."""
    assert at_start.take(3, "three bytes") == CONTENTS[:3]
    at_start.skip(20, "twenty bytes")
    assert at_start.position == 23
    assert at_start.unpack("<hb", "numbers") == (0x1817, 25)
    assert b"".join(at_start.parts(50, "fifty bytes")) == CONTENTS[26:76]
    at_start.skip(24, "the rest")
    assert at_start.position == 100
    assert not at_start.more()


@pytest.mark.parametrize("step", ["take", "skip", "parts"])
def test_end_of_the_file(at_start, step):
    """The message names what was expected, and where."""
    at_start.take(90, "ninety bytes")
    with pytest.raises(VectorFileError, match=r"file', byte (90|100): expected .*what is missing.*found"):
        list(getattr(at_start, step)(11, "what is missing") or ())


def test_room(at_start):
    """A claim is compared with the length of the file, if that is known."""
    at_start.check_room(100, "all")
    if at_start.size is not None:
        with pytest.raises(VectorFileError, match="byte 0: expected a claim: 101 bytes or more, found 100 bytes"):
            at_start.check_room(101, "a claim")


def test_error_may_point_back(at_start):
    """At the value that was just read."""
    at_start.take(4, "a value")
    assert "byte 2: expected this, found that." in str(at_start.error("this", "that", 2))
