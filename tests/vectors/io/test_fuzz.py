"""Damaged files of every format: only our own errors come out, and memory follows the file and not what it claims."""

import bz2
import gzip
import io
import json
import lzma
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io.projector import export_projector
from embkeras.vectors.io.registry import FORMATS
from embkeras.vectors.io.spacy_folder import hashes_of

WORDS = ["the", "Cat", "new york", "nan", "naïve", "日本", "x"]
MATRIX = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
TEXT = "".join(f"{word} {' '.join(map(repr, row))}\n" for word, row in zip(WORDS, MATRIX.tolist(), strict=True))
HEADER = f"{len(WORDS)} 5\n"
MEMORY = 48 << 20  # bytes at most, for files of a few kilobytes
EXAMPLES = 25  # for each specimen
DECEPTIVE = (
    bytes(8),
    b"\xff" * 8,
    b"\x7f" * 4,
    struct.pack("<q", 10**12),
    struct.pack("<i", 2**31 - 1),
    b" ",
    b"\n",
    b"9" * 12,
)


def word2vec_binary(end):
    """As word2vec.c writes it, with or without an end of line after each row."""
    rows = zip(WORDS, MATRIX, strict=True)
    return HEADER.encode() + b"".join(
        word.replace(" ", "_").encode() + b" " + row.tobytes() + end for word, row in rows
    )


def fasttext_binary(version):
    """A small model of fastText: version 12, 11, or the first one without magic number and version."""
    buckets, minn, maxn = 6, 2, 3
    model = struct.pack("<12id", 5, 5, 5, 1, 5, 1, 2, 1, buckets, minn, maxn, 100, 1e-4)
    model += struct.pack("<iiiq", len(WORDS), len(WORDS), 0, 99) + (struct.pack("<q", -1) if version > 10 else b"")
    model += b"".join(word.encode() + b"\0" + struct.pack("<qb", 9, 0) for word in WORDS)
    table = np.random.default_rng(1).normal(size=(len(WORDS) + buckets, 5)).astype("<f4")
    for matrix in (table, MATRIX):
        model += (b"\0" if version > 10 else b"") + struct.pack("<qq", *matrix.shape) + matrix.tobytes()
    return (struct.pack("<ii", 793712314, version) if version > 10 else b"") + model


def packed(files):
    """A zip archive of some files, whose checksums are right."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, contents in files.items():
            file.writestr(name, contents)
    return archive.getvalue()


def same(contents):
    """The file is what was damaged."""
    return contents


# name -> (the bytes that are damaged, what makes a file of them)
SPECIMENS = {
    "text": (TEXT.encode(), same),
    "text with a header": ((HEADER + TEXT).encode(), same),
    "gz": (gzip.compress(TEXT.encode(), mtime=0), same),
    "bz2": (bz2.compress(TEXT.encode()), same),
    "xz": (lzma.compress(TEXT.encode()), same),
    "zip": (packed({"v.txt": TEXT}), same),
    "word2vec binary": (word2vec_binary(b"\n"), same),
    "word2vec binary without ends": (word2vec_binary(b""), same),
    "word2vec binary, gz": (word2vec_binary(b""), gzip.compress),
    "fastText 12": (fasttext_binary(12), same),
    "fastText 11": (fasttext_binary(11), same),
    "fastText without magic": (fasttext_binary(1), same),
}
WRITTEN = [name for name, format in FORMATS.items() if format.endings]


@st.composite
def damages(draw):
    """Up to four damages: where (as a share of the file), which, and how much."""
    places = st.floats(0, 1, exclude_max=True)
    kinds = st.sampled_from(["flip", "cut", "insert", "double", "drop", "deceive"])
    return draw(st.lists(st.tuples(kinds, places, places, st.integers(0, 255)), min_size=1, max_size=4))


def damaged(contents, many):
    """The contents with these damages, one after the other."""
    for kind, where, length, value in many:
        at = int(where * len(contents))
        end = at + 1 + int(length * min(64, len(contents)))
        if kind == "flip":
            contents = contents[:at] + bytes([contents[at] ^ (value or 1)]) + contents[at + 1 :] if contents else b""
        elif kind == "cut":
            contents = contents[:at]
        elif kind == "insert":
            contents = contents[:at] + bytes([value]) * (end - at) + contents[at:]
        elif kind == "double":
            contents = contents[:end] + contents[at:]
        elif kind == "drop":
            contents = contents[:at] + contents[end:]
        else:
            put = DECEPTIVE[value % len(DECEPTIVE)]
            contents = contents[:at] + put + contents[at + len(put) :]
    return contents


def read_whole(path, **arguments):
    """Load a file and look at all of it, for readers that leave it on disk; the peak of memory in bytes."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", EmbkerasWarning)
            vectors = load_vectors(path, **arguments)
            assert len(list(vectors.words)) == len(np.array(vectors.matrix))
            assert all(isinstance(word, str) for word in vectors.words)
    except (VectorFileError, ArgumentError) as error:
        assert str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


# Under these, files that are no text are refused, and text is read in other ways than it says.
AS_TEXT = [
    {"separator": "whitespace", "width": 3},
    {"separator": ("\t", " ")},
    {"header": "ignore"},
    {"encoding": "utf-16"},
]


def check(path, contents, name):
    """Damaged contents under the guise that they have, under their own name, and of selected rows."""
    path.write_bytes(contents)
    for arguments in ({}, {"format": name}, {"words": ["the", "日本"]}, {"limit": 2, "errors": "replace"}, *AS_TEXT):
        if arguments.get("format", "") is not None:
            assert read_whole(path, **arguments) < MEMORY, arguments


FUZZ = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", SPECIMENS)
def test_specimens(name, tmp_path):
    """Files made here, each damaged in many ways."""
    contents, wrap = SPECIMENS[name]
    path = tmp_path / "v.dat"
    path.write_bytes(wrap(contents))
    assert len(load_vectors(path)) == len(WORDS)

    @FUZZ
    @given(damages())
    def run(many):
        check(path, wrap(damaged(contents, many)), None)

    run()


@pytest.mark.parametrize("name", WRITTEN)
def test_written_formats(name, tmp_path):
    """What save_vectors writes, each file of it damaged in turn, read as what it was and as what it seems."""
    path = tmp_path / f"v{FORMATS[name].endings[0]}"
    words = [word.replace(" ", "_") for word in WORDS]  # word2vec binary has no other
    save_vectors(KeyedVectors(words, MATRIX), path, format=name)
    files = {each: each.read_bytes() for each in tmp_path.iterdir()}
    assert list(load_vectors(path).words) == words

    @FUZZ
    @given(damages(), st.sampled_from(sorted(files)))
    def run(many, which):
        for each, contents in files.items():
            each.write_bytes(contents)
        which.write_bytes(damaged(files[which], many))
        check(path, path.read_bytes(), name)

    run()


def spacy(vectors, folder):
    """The files of spaCy's vocabulary that its vectors need."""
    keys = hashes_of([word.encode() for word in vectors.words]).tolist()
    with (folder / "vectors").open("wb") as file:
        np.save(file, vectors.matrix)
    packed = (b"\xcf" + struct.pack(">QB", key, row) for row, key in enumerate(keys))
    (folder / "key2row").write_bytes(bytes([0x80 | len(keys)]) + b"".join(packed))
    (folder / "strings.json").write_text(json.dumps(vectors.words))
    (folder / "vectors.cfg").write_text('{"mode": "default"}')


FOLDERS = {"projector": export_projector, "spacy": spacy}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name, tmp_path):
    """Formats of several files, each damaged in turn."""
    FOLDERS[name](KeyedVectors(WORDS, MATRIX), tmp_path)
    files = {each: each.read_bytes() for each in tmp_path.iterdir()}
    assert load_vectors(tmp_path).words == WORDS and load_vectors(tmp_path).provenance.format == name

    @FUZZ
    @given(damages(), st.sampled_from(sorted(files)))
    def run(many, which):
        for each, contents in files.items():
            each.write_bytes(damaged(contents, many) if each == which else contents)
        for arguments in ({}, {"format": name}, {"words": ["the"]}, {"limit": 2, "errors": "replace"}, *AS_TEXT):
            assert read_whole(tmp_path, **arguments) < MEMORY, arguments

    run()


def test_every_registered_format_is_fuzzed(tmp_path):
    """A new format has a specimen, made here or by save_vectors."""
    read = {*WRITTEN, *FOLDERS}
    for name, (contents, wrap) in SPECIMENS.items():
        path = tmp_path / name
        path.write_bytes(wrap(contents))
        read.add(load_vectors(path).provenance.format)
    assert read >= set(FORMATS)
