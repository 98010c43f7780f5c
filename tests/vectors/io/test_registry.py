"""load_vectors, save_vectors and convert: arguments, recognising the format, writing completely or not at all."""

import ast
import os
import re
import signal
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import embkeras
from embkeras import KeyedVectors, Vocabulary, load_vectors, save_vectors
from embkeras.app import material
from embkeras.errors import ArgumentError, EmbkerasWarning, MissingDependencyError, OutputError, VectorFileError
from embkeras.vectors.inspection import inspect_vectors
from embkeras.vectors.io import registry
from embkeras.vectors.io.registry import FORMATS, convert
from embkeras.vectors.io.store import check_store
from embkeras.vectors.subwords import Subwords
from tests.processes import run_python

VECTORS = KeyedVectors(["the", "Cat", "dog"], np.array([[0.5, 1], [2, 0.1], [3, -1]], "float32"))


@pytest.fixture(params=["v.txt", "v.vec", "v.npy"])
def saved(request, tmp_path):
    """Three words in each of the formats."""
    return save_vectors(VECTORS, tmp_path / request.param)


def test_format_is_found_by_the_content(saved, tmp_path):
    """The name's ending does not matter for reading."""
    words_file = tmp_path / "v.json" if saved.suffix == ".npy" else None
    loaded = load_vectors(saved.rename(tmp_path / "other.dat"), words_file=words_file)
    assert loaded.words == VECTORS.words
    np.testing.assert_array_equal(loaded.matrix, VECTORS.matrix)


@pytest.mark.parametrize("format", [name for name, format in FORMATS.items() if format.endings])
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (-np.inf, "float16"), (1e39, "float64")])
def test_only_finite_numbers_are_written(tmp_path, format, value, dtype, recwarn):
    """What load_vectors would refuse is not written in any format: the message names row and word, and no file is left."""
    matrix = np.ones((3, 2), dtype)
    matrix[1, 0] = value
    with pytest.raises(VectorFileError, match=r"finite float32 .* in row 1 \(word 'Cat'\) for '.*v'"):
        save_vectors(KeyedVectors(VECTORS.words, matrix), tmp_path / "v", format=format)
    assert not list(tmp_path.iterdir()) and not list(recwarn)


def test_provenance_names_file_and_rows(saved):
    """Where the vectors come from, and what the reading met."""
    provenance = load_vectors(saved).provenance
    name = {".txt": "glove", ".vec": "word2vec", ".npy": "npy"}[saved.suffix]
    assert (provenance.path, provenance.format, provenance.rows) == (str(saved), name, 3)
    assert (provenance.duplicates, provenance.undecodable, provenance.wanted) == (0, 0, None)


def test_words_select_rows_in_file_order(saved):
    """Words and their spellings by the fallbacks are kept, in the order of the file."""
    loaded = load_vectors(saved, words=["dog", "THE", "bird"])
    assert loaded.words == ["the", "dog"]
    np.testing.assert_array_equal(loaded.matrix, VECTORS.matrix[[0, 2]])
    assert loaded.provenance.wanted == {"dog", "THE", "the", "bird"}


def test_words_may_be_a_vocabulary(saved):
    """Its special tokens are not looked for."""
    loaded = load_vectors(saved, words=Vocabulary(["the", "[UNK]", "Cat"], oov_ids=(1,)), fallbacks=())
    assert loaded.words == ["Cat"]


def test_words_that_are_not_there_give_no_rows(saved):
    """An empty store of the right width; align says what that means."""
    loaded = load_vectors(saved, words=["bird"])
    assert (len(loaded), loaded.vector_size) == (0, 2)


def test_limit_reads_the_head(saved):
    """Only the first rows are read, and recorded."""
    loaded = load_vectors(saved, limit=2)
    assert (loaded.words, loaded.provenance.rows, loaded.provenance.limit) == (["the", "Cat"], 2, 2)


def test_limit_beyond_the_file_reads_all(saved):
    """A limit larger than the file does no harm."""
    assert len(load_vectors(saved, limit=99)) == 3


def test_dtype_float16(saved):
    """Half the memory, each value rounded once."""
    loaded = load_vectors(saved, dtype="float16")
    assert loaded.matrix.dtype == np.float16
    np.testing.assert_array_equal(loaded.matrix, VECTORS.matrix.astype("float16"))


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.npy"])
def test_value_that_float16_cannot_hold_is_refused(tmp_path, name, recwarn):
    """Overflow is not read as infinity; the message names the type and the place, and NumPy adds no warning."""
    path = save_vectors(KeyedVectors(["a", "b"], np.array([[1, 2], [3, 7e4]], "float32")), tmp_path / name)
    with pytest.raises(VectorFileError, match=r"float16.*(b'70000'|row 1 \(word 'b'\))"):
        load_vectors(path, dtype="float16")
    assert not list(recwarn)


def test_repeated_words_are_warned_of(tmp_path):
    """The first row is kept, the others are counted, and the warning points at the caller."""
    path = tmp_path / "v.txt"
    path.write_text("a 1 2\nb 3 4\na 5 6\na 7 8\n")
    with pytest.warns(EmbkerasWarning, match=r"v\.txt' has 2 rows with a repeated word") as warned:
        loaded = load_vectors(path)
    assert loaded["a"].tolist() == [1, 2]
    assert loaded.provenance.duplicates == 2
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"errors": "ignore"}, "Received: 'ignore'"),
        ({"dtype": "float64"}, "Received: 'float64'"),
        ({"limit": 0}, "limit must be an integer >= 1. Received: 0"),
        ({"format": "bin"}, "npy, .*word2vec, glove. Received: 'bin'"),
        ({"fallbacks": ("stem",)}, "Received: 'stem'"),
        ({"words": "the"}, "Received: 'the'"),
    ],
)
def test_arguments_are_checked(saved, arguments, message):
    """The message names the value received."""
    with pytest.raises(ArgumentError, match=message):
        load_vectors(saved, **arguments)


def test_missing_file_is_refused(tmp_path):
    """The message names the path."""
    with pytest.raises(VectorFileError, match=r"none\.txt': there is no such file"):
        load_vectors(tmp_path / "none.txt")


def test_folder_is_refused(tmp_path):
    """The message says that it is one."""
    with pytest.raises(VectorFileError, match="it is a folder"):
        load_vectors(tmp_path)


def test_save_needs_a_known_ending(tmp_path):
    """The message names the formats and the file's name."""
    with pytest.raises(ArgumentError, match=r"name 'v\.dat': pass format=, one of .*npy, .*word2vec, glove"):
        save_vectors(VECTORS, tmp_path / "v.dat")


def test_save_refuses_an_unknown_format(tmp_path):
    """The message names the value received."""
    with pytest.raises(ArgumentError, match="Received: 'bin'"):
        save_vectors(VECTORS, tmp_path / "v.txt", format="bin")


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.npy"])
def test_save_below_a_file_is_refused(tmp_path, name):
    """The message names the target."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=rf"Cannot write '.*file/{name}'"):
        save_vectors(VECTORS, tmp_path / "file" / name)


@pytest.mark.parametrize("before", [None, b"before"])
@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.npy"])
def test_killed_process_leaves_the_file_as_it_was(tmp_path, name, before):
    """kill -9 in the middle of the rows: the old files stay, or none is there."""
    paths = [tmp_path / name, tmp_path / "v.json"]
    if before:
        for path in paths:
            path.write_bytes(before)
    code = """
        import os, signal, sys
        import numpy as np
        from embkeras import KeyedVectors, save_vectors
        def die(*arguments, **keywords):
            os.kill(os.getpid(), signal.SIGKILL)
        class Deadly(np.ndarray):
            def __iter__(self):
                yield np.ones(2)
                die()
        vectors = KeyedVectors(["a", "b"], np.ones((2, 2), "float32"))
        vectors.matrix = vectors.matrix.view(Deadly)
        np.lib.format.write_array_header_1_0 = die
        save_vectors(vectors, sys.argv[1])
    """
    run_python("-c", code, paths[0], returncode=-signal.SIGKILL)
    assert [path.read_bytes() if path.exists() else None for path in paths] == [before, before]


def test_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    """A full disk while the matrix is written leaves the words as they were, too."""
    save_vectors(VECTORS, tmp_path / "v.npy")

    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fail)
    with pytest.raises(OutputError, match=r"Cannot write '.*v\.npy': No space left"):
        save_vectors(KeyedVectors(["x", "y", "z"], VECTORS.matrix), tmp_path / "v.npy")
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["v.json", "v.npy"]
    assert load_vectors(tmp_path / "v.npy").words == VECTORS.words


@pytest.fixture(scope="module")
def glove():
    """The real GloVe 6B 50d, all of it, and its two paths."""
    pytest.importorskip("pyarrow", reason="reading the words of GloVe needs pyarrow")
    try:
        matrix, words = material.glove_paths()
    except MissingDependencyError:
        pytest.skip("the package with the GloVe vectors is not installed")
    return load_vectors(matrix, words_file=words), matrix, words


def test_real_glove_is_whole(glove):
    """400,000 words of width 50, none lost."""
    vectors, _, _ = glove
    assert (len(vectors), vectors.vector_size, vectors.words[0]) == (400_000, 50, "the")
    assert {"nan", "null", '"', "#", "unk"} <= set(vectors.words)


def test_real_glove_selected_equals_whole(glove):
    """words= gives the rows that a full load and a selection give."""
    vectors, matrix, words = glove
    some = load_vectors(matrix, words_file=words, words=["sandberger", "the", "NaN", "nosuchword", "television"])
    assert some.words == sorted(["sandberger", "the", "nan", "television"], key=vectors.key_to_index.get)
    for word in some:
        assert some[word].tobytes() == vectors[word].tobytes()


def test_unknown_encoding(tmp_path):
    """One that Python does not know."""
    (tmp_path / "v.txt").write_text("a 1.5\n")
    with pytest.raises(ArgumentError, match=r"encoding must be the name of a text encoding.* Received: 'latin-99'"):
        load_vectors(tmp_path / "v.txt", encoding="latin-99")


def test_subwords_left_behind_are_warned_of(tmp_path):
    """No format that is written holds n-grams."""
    subwords = Subwords(np.ones((4, VECTORS.vector_size), "float32"), min_n=2, max_n=3, buckets=4)
    vectors = KeyedVectors(VECTORS.words, VECTORS.matrix, subwords=subwords)
    with pytest.warns(EmbkerasWarning, match=r"v\.txt' has the 3 words but not the 4 rows of n-grams"):
        save_vectors(vectors, tmp_path / "v.txt")


ENDINGS = [format.endings[0] for format in FORMATS.values() if format.endings]


@pytest.mark.parametrize("before", ENDINGS)
@pytest.mark.parametrize("after", ENDINGS)
def test_round_trips(tmp_path, before, after):
    """Words and values come back bit for bit."""
    source = save_vectors(VECTORS, tmp_path / "in" / f"v{before}")
    returned = convert(source, tmp_path / "out" / f"v{after}")
    loaded = load_vectors(tmp_path / "out" / f"v{after}")
    assert list(loaded.words) == list(returned.words) == list(VECTORS.words)
    np.testing.assert_array_equal(loaded.matrix, VECTORS.matrix)


def test_arguments_of_reading(tmp_path):
    """limit and dtype are those of load_vectors, `to` the format of a name that does not tell."""
    source = save_vectors(VECTORS, tmp_path / "v.txt")
    convert(source, tmp_path / "v.dat", to="word2vec", limit=2, dtype="float16")
    loaded = load_vectors(tmp_path / "v.dat")
    assert (loaded.words, loaded.provenance.format) == (["the", "Cat"], "word2vec")
    assert loaded["Cat"].tolist() == [2, np.float32(np.float16(0.1))]


@pytest.mark.parametrize("there", ["v.npy", "v.json"])
def test_nothing_is_overwritten_unasked(tmp_path, there):
    """Nor the list of words beside a matrix; the source is not even read."""
    (tmp_path / there).write_text("before")
    with pytest.raises(OutputError, match=rf"{there}'.* already exists\. Pass overwrite=True"):
        convert(tmp_path / "absent.txt", tmp_path / "v.npy")
    assert (tmp_path / there).read_text() == "before"
    convert(save_vectors(VECTORS, tmp_path / "in.txt"), tmp_path / "v.npy", overwrite=True)
    assert load_vectors(tmp_path / "v.npy").words == VECTORS.words


@pytest.mark.parametrize("before", [".bin", ".txt.gz", ".npy", ".parquet"])
def test_table_is_not_in_memory(tmp_path, before):
    """It is mapped from a file without a name, which goes away with it."""
    source = save_vectors(VECTORS, tmp_path / f"v{before}")
    converted = convert(source, tmp_path / "out" / "v.h5")
    assert isinstance(converted.matrix, np.memmap) and converted.matrix.filename is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["v.h5"]
    assert not isinstance(load_vectors(source).matrix, np.memmap)


def test_onto_itself(tmp_path):
    """The file is read before it is replaced."""
    path = save_vectors(VECTORS, tmp_path / "v.txt")
    convert(path, path, to="word2vec", overwrite=True)
    assert load_vectors(path).provenance.format == "word2vec"


def test_unknown_target_and_damaged_source(tmp_path):
    """The errors of save_vectors and load_vectors, and no file."""
    source = save_vectors(VECTORS, tmp_path / "v.txt")
    with pytest.raises(ArgumentError, match=r"name 'v\.dat'"):
        convert(source, tmp_path / "v.dat")
    source.write_text("a 1 2\nb 3")
    with pytest.raises(VectorFileError, match="line 2"):
        convert(source, tmp_path / "v.vec")
    assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]


def test_convert_warns_of_subwords_left_behind(tmp_path, monkeypatch):
    """The new file has no vectors for other words."""
    subwords = Subwords(np.ones((4, 2), "float32"), min_n=2, max_n=3, buckets=4)
    monkeypatch.setattr(
        registry, "load_vectors", lambda path: KeyedVectors(VECTORS.words, VECTORS.matrix, subwords=subwords)
    )
    with pytest.warns(EmbkerasWarning, match=r"v\.txt' has the 3 words but not the 4 rows of n-grams"):
        convert(tmp_path / "m.bin", tmp_path / "v.txt")


# --------------------------------------------------------------------------------------- sidecars: files that belong together

# (name of the file, its format, names of its sidecars)
PAIRS = [
    ("v.npy", None, ["v.json"]),
    ("v.dat", "npy", ["v.json"]),
    ("v.safetensors", None, ["v.tokenizer.json"]),
    ("v.dat", "safetensors", ["v.tokenizer.json"]),
    ("model.safetensors", None, ["tokenizer.json"]),
]


def test_every_sidecar_is_declared(tmp_path):
    """What a format writes beside a file is what it declares, for any name."""
    for name, format in FORMATS.items():
        for ending in format.endings:
            for stem in ("v", "model"):
                path = tmp_path / name / ending / stem / f"{stem}{ending}"
                declared = format.sidecars(path)
                save_vectors(VECTORS, path)
                assert set(path.parent.iterdir()) == {path, *declared}
    assert {name for name, format in FORMATS.items() if format.sidecars(tmp_path / "v.x")} == {"npy", "safetensors"}


@pytest.mark.parametrize(("name", "to", "sidecars"), PAIRS)
def test_sidecars_are_not_overwritten_unasked(tmp_path, name, to, sidecars):
    """Neither by convert, which doesn't even read its source, nor by save_vectors."""
    source = save_vectors(VECTORS, tmp_path / "in" / "v.txt")
    for sidecar in sidecars:
        (tmp_path / sidecar).write_text("mine")
        with pytest.raises(OutputError, match=rf"{sidecar}', which is written beside '{name}', already exists"):
            convert(tmp_path / "absent.txt", tmp_path / name, to=to)
        with pytest.raises(OutputError, match=rf"{sidecar}'.* already exists"):
            save_vectors(VECTORS, tmp_path / name, format=to, overwrite=False)
        assert (tmp_path / sidecar).read_text() == "mine" and not (tmp_path / name).exists()
        convert(source, tmp_path / name, to=to, overwrite=True)
        (tmp_path / sidecar).unlink()


def test_unrelated_tokenizer_is_no_obstacle(tmp_path):
    """The tokens of y.safetensors are in y.tokenizer.json; tokenizer.json stays as it was."""
    (tmp_path / "tokenizer.json").write_text("mine")
    convert(save_vectors(VECTORS, tmp_path / "v.txt"), tmp_path / "y.safetensors")
    assert load_vectors(tmp_path / "y.safetensors").words == VECTORS.words
    assert (tmp_path / "tokenizer.json").read_text() == "mine"


@pytest.mark.parametrize(("name", "to", "sidecars"), [pair for pair in PAIRS if pair[1] is None])
def test_killed_between_the_two_renames(tmp_path, name, to, sidecars):
    """A file is not loaded with the words of another: the checksum shows that they don't belong together."""
    before = KeyedVectors(["cat", "dog"], np.array([[1, 0], [0, 1]], "float32"))
    path = save_vectors(before, tmp_path / name)
    code = """
        import os, signal, sys
        import numpy as np
        from embkeras import KeyedVectors, save_vectors
        real = os.replace
        def replace(*arguments):
            real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        os.replace = replace
        save_vectors(KeyedVectors(["dog", "cat"], np.array([[0, 1], [1, 0.5]], "float32")), sys.argv[1])
    """
    run_python("-c", code, path, returncode=-signal.SIGKILL)
    with pytest.raises(VectorFileError, match=rf"words in {sidecars[0]} were written with another .*{name}"):
        load_vectors(path)
    save_vectors(before, path)
    assert load_vectors(path)["cat"].tolist() == [1, 0]
    assert not list(tmp_path.glob(".writing-*"))


def test_two_rows_in_another_order_are_another_matrix(tmp_path):
    """The checksum covers all bytes: a large matrix that differs in two rows only is refused, for any words asked for."""
    matrix = np.random.default_rng(0).normal(size=(20_000, 50)).astype("float32")
    words = [f"w{row}" for row in range(len(matrix))]
    save_vectors(KeyedVectors(words, matrix), tmp_path / "new.npy")
    matrix[[9_000, 9_001]] = matrix[[9_001, 9_000]]
    np.save(tmp_path / "new.npy", matrix)
    for arguments in ({}, {"words": ["w3"]}, {"limit": 1}):
        with pytest.raises(VectorFileError, match=r"new\.json were written with another matrix than .*new\.npy"):
            load_vectors(tmp_path / "new.npy", **arguments)
    assert len(load_vectors(tmp_path / "new.npy", words_file=tmp_path / "new.json")) == 20_000  # as the user says so


@pytest.mark.parametrize("crc", ["null", "true", '"1"', "1.5"])
def test_checksum_that_is_not_a_number(tmp_path, crc):
    """The message names the file and the value."""
    path = save_vectors(VECTORS, tmp_path / "v.npy")
    (tmp_path / "v.json").write_text(f'{{"words": ["a", "b", "c"], "matrix_crc32": {crc}}}')
    with pytest.raises(VectorFileError, match=r"v\.json': matrix_crc32 must be an integer\. Received"):
        load_vectors(path)


# ------------------------------------------------------------------------------------------------------ what is not read

NOT_PATHS = [None, b"v.txt", 3, "", "a\0b", "a" * 5000, ["v.txt"]]


@pytest.mark.parametrize("value", NOT_PATHS, ids=lambda value: repr(value)[:10])
def test_other_values_than_paths_are_refused(tmp_path, value):
    """By every function that takes a path; a file object, too."""
    path = save_vectors(VECTORS, tmp_path / "v.npy")
    calls = {
        "path": [load_vectors, inspect_vectors, check_store, lambda given: save_vectors(VECTORS, given)],
        "source": [lambda given: convert(given, tmp_path / "out.txt")],
        "target": [lambda given: convert(path, given)],
    }
    if value is not None:
        calls["words_file"] = [lambda given: load_vectors(path, words_file=given)]
    with path.open("rb") as file:
        for name, functions in calls.items():
            for function in functions:
                for given in (value, file):
                    with pytest.raises(ArgumentError, match=rf"^{name} must be a path.* Received: "):
                        function(given)


@pytest.mark.parametrize(
    "arguments", [{"limit": True}, {"progress": "yes"}, {"member": 3}, {"format": 3}, {"words": b"cat"}, {"words": 3}]
)
def test_other_arguments_of_loading_are_refused(saved, arguments):
    """The message names the argument and the value."""
    name, value = next(iter(arguments.items()))
    with pytest.raises(ArgumentError, match=rf"^{name} must be .*Received: {value!r}"):
        load_vectors(saved, **arguments)


def test_other_arguments_of_saving_are_refused(tmp_path):
    """The message names the argument and the value."""
    with pytest.raises(ArgumentError, match=r"vectors must be KeyedVectors\. Received: \['a'\]"):
        save_vectors(["a"], tmp_path / "v.txt")
    with pytest.raises(ArgumentError, match=r"overwrite must be True or False\. Received: 'no'"):
        save_vectors(VECTORS, tmp_path / "v.txt", overwrite="no")
    with pytest.raises(ArgumentError, match=r"format must be one of .* Received: 'fasttext-binary'"):
        save_vectors(VECTORS, tmp_path / "v.bin", format="fasttext-binary")
    with pytest.raises(ArgumentError, match=r"to must be one of .* Received: 'fasttext-binary'"):
        convert(tmp_path / "v.txt", tmp_path / "v.bin", to="fasttext-binary")


def test_saved_models_are_refused_by_name(tmp_path):
    """The message names the function that reads their tables, which has these parameters."""
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    for path, what in ((tmp_path / "m.keras", "a Keras model"), (tmp_path / "saved", "a SavedModel")):
        with pytest.raises(VectorFileError, match=rf"{path.name}'.* {what}\. .*embkeras\.tables\.saved\.load_table\("):
            load_vectors(path)
    tree = ast.parse((Path(embkeras.__file__).parent / "tables" / "saved.py").read_text("utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "load_table")
    assert [each.arg for each in function.args.args] == ["path", "layer"]


def test_safetensors_missing_names_the_extra(tmp_path, monkeypatch):
    """Reading and writing say what to install; nothing is written."""
    path = save_vectors(VECTORS, tmp_path / "v.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingDependencyError, match=r'v\.safetensors.*"embkeras\[safetensors\]"'):
        load_vectors(path)
    with pytest.raises(MissingDependencyError, match=r'w\.safetensors.*"embkeras\[safetensors\]"'):
        save_vectors(VECTORS, tmp_path / "w.safetensors")
    assert not list(tmp_path.glob("w.*"))


@pytest.mark.parametrize("name", ["V.VEC", "V.Txt.GZ", "V.H5", "V.NPY", "V.Npz"])
def test_endings_in_capitals(tmp_path, name):
    """They are the same endings, for writing and for the words beside a matrix."""
    path = save_vectors(VECTORS, tmp_path / name)
    assert list(load_vectors(path).words) == VECTORS.words
    if name.endswith("GZ"):
        assert path.read_bytes()[:2] == b"\x1f\x8b"


def test_words_file_in_capitals(tmp_path):
    """As other systems write it."""
    np.save(tmp_path / "m.npy", VECTORS.matrix)
    (tmp_path / "m.TXT").write_text("a\nb\nc\n")
    assert load_vectors(tmp_path / "m.npy").words == ["a", "b", "c"]


def test_standard_output_is_no_file(tmp_path):
    """It can't be renamed when it is complete."""
    with pytest.raises(ArgumentError, match=r"target must be a file: .*Received: '-'"):
        convert(save_vectors(VECTORS, tmp_path / "v.txt"), "-", to="word2vec")


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_full_disk_is_one_line(tmp_path):
    """In every format that is written: a limit of the size of files shows what the writer does when no more fits."""
    code = """
        import resource, sys
        import numpy as np
        from pathlib import Path
        from embkeras import KeyedVectors, save_vectors
        from embkeras.errors import OutputError
        from embkeras.vectors.io.registry import FORMATS
        vectors = KeyedVectors([f"w{i}" for i in range(600)], np.random.default_rng(0).random((600, 30), "float32"))
        for name, format in FORMATS.items():
            for ending in format.endings:
                for compression in ("", ".gz", ".bz2", ".xz", ".zip") if format.compressed else ("",):
                    path = Path(sys.argv[1], "v" + ending + compression)
                    save_vectors(vectors, path.with_name("whole" + path.name))  # imports what it needs
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
                    try:
                        print("written:", save_vectors(vectors, path))
                    except OutputError as error:
                        print(str(error))
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    """
    printed = run_python("-c", code, tmp_path).stdout.splitlines()
    assert len(printed) >= len(ENDINGS)
    assert not [line for line in printed if not re.fullmatch(r"Cannot write '.*/v\..*': .*File too large.*\.", line)]


def test_a_link_is_written_through(tmp_path):
    """convert(overwrite=True) replaces the file that a link leads to."""
    source = save_vectors(VECTORS, tmp_path / "in.txt")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "v.vec").write_text("before")
    (tmp_path / "v.vec").symlink_to("disk/v.vec")
    convert(source, tmp_path / "v.vec", overwrite=True)
    assert (tmp_path / "v.vec").is_symlink() and load_vectors(tmp_path / "disk" / "v.vec").words == VECTORS.words


def _format(*endings, **more):
    return registry.Format("a format", lambda source: False, lambda source, request: VECTORS, endings, **more)


def test_a_format_of_your_own(tmp_path, monkeypatch):
    """It is asked first, reads and writes, and has one name."""
    monkeypatch.setattr(registry, "FORMATS", FORMATS)
    own = _format(".own", write=lambda vectors, beside, path: beside.write_text("own"))
    registry.register_format("own", own)
    assert list(registry.FORMATS) == ["own", *FORMATS] and "own" not in FORMATS
    path = save_vectors(VECTORS, tmp_path / "v.own")
    assert path.read_text() == "own" and load_vectors(path, format="own") is VECTORS
    with pytest.raises(ArgumentError, match=r"name must be one that no format has.*Received: 'own'"):
        registry.register_format("own", own)


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("glove", _format(), r"name .* choose another\. Received: 'glove'"),
        ("", _format(), r"name .* Received: ''"),
        (3, _format(), r"name .* Received: 3"),
        ("own", "glove", r"must be a Format\. Received: 'glove' for 'own'"),
        ("own", _format(".own", ".vec"), r"endings .* Received: '\.vec' for 'own', which is that of 'word2vec'"),
        ("own", _format("own"), r"endings .* Received: 'own' for 'own'"),
        ("own", _format(".OWN"), r"endings .* Received: '\.OWN' for 'own'"),
        ("own", _format(".my.own"), r"endings .* Received: '\.my\.own' for 'own'"),
        ("own", _format(".gz"), r"endings .* Received: '\.gz' for 'own'"),
        ("own", _format(""), r"endings .* Received: '' for 'own'"),
        ("own", _format(3), r"endings must be strings.* Received: 3"),
        ("own", replace(_format(), endings=".own"), r"endings must be a sequence.* Received: '\.own'"),
        ("own", _format(".own"), r"must have write=\. Received: \('\.own',\) for 'own'"),
    ],
)
def test_formats_that_are_refused(name, format, message):
    """A name or an ending that is taken, or that would never be asked for; the registry stays as it is."""
    with pytest.raises(ArgumentError, match=message):
        registry.register_format(name, format)
    assert registry.FORMATS is FORMATS


def test_documentation_lists_every_format():
    """As the registry has them: load_vectors names them all, save_vectors every ending."""
    for name, endings, what in registry.table_of_formats():
        assert re.search(rf"\b{name}\b", load_vectors.__doc__), name
        assert all(f"`{ending}`" in save_vectors.__doc__ for ending in endings.split(", ") if ending), name
        assert what and FORMATS[name].what == what
