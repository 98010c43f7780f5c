"""Files of other programs: each is named, not opened, and the command that converts it works where its program is at hand."""

import gzip
import io
import lzma
import os
import pickle
import re
import shlex
import sqlite3
import tarfile
import zipfile

import numpy as np
import pandas
import pytest

from embkeras import load_vectors
from embkeras.errors import VectorFileError
from tests.processes import run_python


def zipped(*names):
    """A zip archive with files of these names."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return packed.getvalue()


def tarred(*names):
    """The same as a tar archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    return packed.getvalue()


class Foreign:
    """Stands in for a class of another program in a pickle."""

    def __init__(self, module):
        self.module = module

    def __reduce__(self):
        return os.path.join, (self.module,)


# What it is, a command that is shown, and the contents
FILES = {
    "torch, zip": ("a file of PyTorch", "torch.load('FILE'", zipped("x/data.pkl", "x/version")),
    "torch, old": (
        "a file of PyTorch",
        "weights_only=True",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    ),
    "allennlp": (
        "an archive of AllenNLP",
        "tar xzf FILE && python -c",
        gzip.compress(tarred("config.json", "weights.th")),
    ),
    "tar": ("a tar archive", "tar xf FILE", tarred("glove.txt")),
    "finalfusion": ("a file of finalfusion", "write_word2vec('FILE.bin'", b"FiFu\x00\x00\x00\x00\x03\x00\x00\x00"),
    "floret": ("a table of floret", "> FILE.txt", b"50 3 3 6 2 2166136261 < >\n0 0.5 0.25 1 \n1 0 0 0 \n"),
    "magnitude": (
        "a file of Magnitude",
        "magnitude_format",
        b"SQLite format 3\0" + bytes(84) + b"`magnitude_format`",
    ),
    "sqlite": ("an SQLite database", "", b"SQLite format 3\0" + bytes(84)),
    "RData": (r"a file of R \(RData\)", "get(load('FILE')[1])", gzip.compress(b"RDX3\nX\n\0\0\0\3")),
    "RDS in ASCII": (r"a file of R \(RDS\)", "readRDS('FILE')", b"A\n3\n262658\n197888\n5\nUTF-8\n"),
    "RDS": (r"a file of R \(RDS\)", "readRDS('FILE')", gzip.compress(b"X\n\0\0\0\3\0\4\2\1")),
    "lzma": ("compressed as .lzma", "xz -dc FILE > FILE.txt", lzma.compress(b"a 1 2\n", lzma.FORMAT_ALONE)),
    "dict": ("a pickled dict", "pickle.load(open('FILE', 'rb'))", pickle.dumps({"a": np.ones(2)})),
    "dict, 2": ("a pickled dict", "save_vectors", pickle.dumps({"a": np.ones(2)}, protocol=2)),
    "dict, 0": ("a pickled dict", "save_vectors", pickle.dumps({"a": np.ones(2)}, protocol=0)),
    "tuple": ("a pickle,", "save_vectors", pickle.dumps((["a"], np.ones((1, 2))))),
    "array, 0": ("a pickle,", "save_vectors", pickle.dumps(np.ones(2), protocol=0)),
    "pandas": (
        "a pickle of pandas",
        "from_dataframe(pandas.read_pickle('FILE'))",
        pickle.dumps(pandas.DataFrame({"a": [1]})),
    ),
    "gensim": (
        "a pickle of gensim,",
        "save_word2vec_format('FILE.vec')",
        pickle.dumps(Foreign("gensim.models.word2vec")),
    ),
    "gensim's FastText": (
        "a pickle of gensim's FastText, .* loses the n-grams",
        "save_facebook_model(gensim.models.FastText.load('FILE'), 'FILE.bin')",
        pickle.dumps(Foreign("gensim.models.fasttext")),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_each_is_named(tmp_path, monkeypatch, name):
    """With the command that converts it, with the path in it, under any name of the file."""
    what, command, contents = FILES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.txt").write_bytes(contents)
    with pytest.raises(VectorFileError, match=rf"'v\.txt' contains no word vectors: it is {what}") as error:
        load_vectors("v.txt")
    assert command.replace("FILE", "v.txt") in str(error.value)
    (tmp_path / "it's.txt").write_bytes(contents)  # a path that would end the quotes of the command
    with pytest.raises(VectorFileError) as error:
        load_vectors("it's.txt")
    assert command in str(error.value)


def magnitude(path):
    """A file as pymagnitude's converter writes it, of one word."""
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE `magnitude` (key TEXT COLLATE NOCASE, dim_0 INTEGER, dim_1 INTEGER)")
        base.execute("CREATE TABLE `magnitude_format` (key TEXT COLLATE NOCASE, value INTEGER)")
        base.execute("INSERT INTO magnitude VALUES ('cat', 6000000, -8000000)")
        base.execute("INSERT INTO magnitude_format VALUES ('precision', 7)")
    base.close()


WRITERS = {
    "dict": lambda path: path.write_bytes(pickle.dumps({"cat": np.array([0.6, -0.8])})),
    "pandas": lambda path: pandas.DataFrame([[0.6, -0.8]], index=["cat"]).to_pickle(path),
    "magnitude": magnitude,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_command_works(tmp_path, name):
    """Run unchanged, it writes a file that loads."""
    path = tmp_path / "v.dat"
    WRITERS[name](path)
    with pytest.raises(VectorFileError) as error:
        load_vectors(path)
    run_python(*shlex.split(re.search(r'python (-c ".*")', str(error.value))[1]))
    loaded = load_vectors(f"{path}.h5")
    assert list(loaded.words) == ["cat"]
    np.testing.assert_allclose(loaded["cat"], [0.6, -0.8], rtol=1e-6)


def test_n_grams_of_gensim_are_kept(tmp_path):
    """The second command that is shown for a FastText model."""
    gensim = pytest.importorskip("gensim.models")
    model = gensim.FastText([["cat", "sat"]] * 9, vector_size=4, min_count=1, epochs=1, bucket=20)
    model.save(str(tmp_path / "x.model"))
    with pytest.raises(VectorFileError) as error:
        load_vectors(tmp_path / "x.model")
    lossy, keeping = re.findall(r'python (-c "[^"]*")', str(error.value))
    for command in (lossy, keeping):
        run_python(*shlex.split(command))
    assert load_vectors(tmp_path / "x.model.vec").subwords is None
    kept = load_vectors(tmp_path / "x.model.bin")
    np.testing.assert_allclose(kept.subwords.compose("cats"), model.wv["cats"], atol=1e-6)


def test_compressed_twice_and_empty(tmp_path):
    """A file inside a compressed file is named; so is an archive without files."""
    path = tmp_path / "v.txt.gz"
    path.write_bytes(gzip.compress(gzip.compress(b"a 1 2\n")))
    with pytest.raises(VectorFileError, match=r"a \.gz file inside a \.gz file"):
        load_vectors(path)
    path.write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(VectorFileError, match=r"empty \.zip"):
        load_vectors(path)
