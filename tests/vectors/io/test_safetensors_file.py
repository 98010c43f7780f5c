"""model2vec's table of vectors: safetensors, and the tokens in tokenizer.json."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras import KeyedVectors, load_vectors, save_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from tests.properties import PROPERTY, TEXTS, comes_back, finite_bits

MATRIX = np.arange(6, dtype="float32").reshape(3, 2)
WORDPIECE = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"##ing": 1, "cat": 0, "[UNK]": 2}}
NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8", "int64": "I64", "uint16": "BF16"}


def _container(tensors, **metadata):
    """A safetensors file; uint16 stands for bfloat16."""
    header, numbers = ({"__metadata__": metadata} if metadata else {}), b""
    for name, array in tensors.items():
        place = [len(numbers), len(numbers) + array.nbytes]
        header[name] = {"dtype": NAMES[str(array.dtype)], "shape": array.shape, "data_offsets": place}
        numbers += array.tobytes()
    return _packed(header, numbers)


def _packed(header, numbers=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + numbers


def _tokenizer(model=WORDPIECE, added=()):
    return json.dumps({"version": "1.0", "added_tokens": list(added), "model": model})


@pytest.fixture
def folder(tmp_path):
    """A folder such as model2vec writes: three tokens, out of order in the tokenizer."""
    (tmp_path / "model.safetensors").write_bytes(_container({"embeddings": MATRIX}))
    (tmp_path / "tokenizer.json").write_text(_tokenizer(added=[{"id": 2, "content": "[UNK]"}]))
    return tmp_path


def _load(folder, tensors, **arguments):
    (folder / "model.safetensors").write_bytes(_container(tensors))
    return load_vectors(folder, **arguments)


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_folder_or_file(folder, name):
    """Tokens as they stand, in the order of their ids."""
    loaded = load_vectors(folder / name)
    assert loaded.words == ["cat", "##ing", "[UNK]"]
    np.testing.assert_array_equal(loaded.matrix, MATRIX)
    provenance = loaded.provenance
    assert (provenance.format, provenance.rows, provenance.stored) == ("safetensors", 3, None)
    assert provenance.path == str(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mapping_and_weights(folder, dtype):
    """The vector of a token is embeddings[mapping[t]] * weights[t], as model2vec has it."""
    mapping, weights = np.array([1, 1, 0]), np.array([1.0, 2.0, 0.5])
    tensors = {"mapping": mapping, "embeddings": MATRIX[:2].astype("float16"), "weights": weights}
    loaded = _load(folder, tensors, dtype=dtype)
    assert loaded.words == ["cat", "##ing", "[UNK]"]
    assert loaded.matrix.dtype == dtype
    assert loaded.matrix.tolist() == [[2, 3], [4, 6], [0, 0.5]]
    assert _load(folder, tensors, words=["##ing"], limit=2).matrix.tolist() == [[4, 6]]


def test_model2vec_is_the_oracle(tmp_path):
    """What model2vec writes is read as model2vec encodes it; what is written here, model2vec loads."""
    model2vec = pytest.importorskip("model2vec", reason="the oracle of this format")
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle of this format")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(WORDPIECE["vocab"], unk_token="[UNK]"))
    weights, mapping = np.array([1.0, 2.0, 0.5]), np.array([1, 1, 0])
    model = model2vec.StaticModel(MATRIX[:2], tokenizer, weights=weights, token_mapping=mapping)
    model.save_pretrained(tmp_path / "theirs")
    loaded = load_vectors(tmp_path / "theirs")
    np.testing.assert_array_equal(model.encode("cat"), loaded["cat"])
    save_vectors(loaded, tmp_path / "ours" / "model.safetensors")
    ours = model2vec.StaticModel.from_pretrained(tmp_path / "ours")
    assert list(ours.tokens) == loaded.words
    np.testing.assert_array_equal(ours.encode("cat"), loaded["cat"])


def test_bfloat16(folder):
    """The upper half of a float32: each value is held exactly."""
    values = np.array([[1.5, -2], [0.25, 3], [-0.0, 1e30]], "float32").view("uint32")
    loaded = _load(folder, {"embeddings": (values >> 16).astype("uint16")})
    np.testing.assert_array_equal(loaded.matrix, (values >> 16 << 16).view("float32"))
    assert loaded.provenance.stored is None


def test_int8_is_not_scaled(folder):
    """The scale of a quantised model is not in the file; the provenance tells the type."""
    loaded = _load(folder, {"embeddings": MATRIX.astype("int8")})
    np.testing.assert_array_equal(loaded.matrix, MATRIX)
    assert loaded.provenance.stored == "int8"


@pytest.mark.parametrize(
    ("model", "added"),
    [
        ({"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.5]]}, [{"id": 2, "content": "c"}]),
        ({"type": "BPE", "vocab": {"b": 1, "a": 0}, "merges": []}, [{"id": 2, "content": "c"}]),
        ({"type": "WordLevel", "vocab": {"c": 2, "b": 1, "a": 0}}, [{"id": 1, "content": "b"}]),
    ],
)
def test_kinds_of_tokenizers(folder, model, added):
    """Tokens of the model, then those added to it."""
    (folder / "tokenizer.json").write_text(_tokenizer(model, added))
    assert load_vectors(folder).words == ["a", "b", "c"]


def test_repeated_tokens_are_counted(folder):
    """Unigram may list a token twice; the first row is kept."""
    (folder / "tokenizer.json").write_text(_tokenizer({"vocab": [["a", 0], ["b", 0], ["a", 0]]}))
    with pytest.warns(EmbkerasWarning, match="1 rows with a repeated word"):
        assert load_vectors(folder).words == ["a", "b"]


@pytest.mark.parametrize(
    ("model", "added", "message"),
    [
        ({"vocab": {"a": 0, "b": 1}}, [], "each id from 0 to 2, .* no token for the id 2"),
        ({"vocab": {"a": 0, "b": 1, "c": 2, "d": 3}}, [], "each id from 0 to 2, .* the token 'd' for the id 3"),
        ({"vocab": {"a": 0, "b": 1, "c": -1}}, [], "the token 'c' for the id -1"),
        ({"vocab": {"a": 0, "b": 1, "c": True}}, [], "the token 'c' for the id True"),
        ({"vocab": {"a": 0, "b": 1, "c": 1}}, [], "two tokens for the id 1, 'b' and 'c'"),
        ({"vocab": {"a": 0, "b": 1}}, [{"id": 1, "content": "c"}], "two tokens for the id 1, 'b' and 'c'"),
        ({"vocab": [["a", 0], [3, 0], ["c", 0]]}, [], "the token 3 for the id 1"),
        ({"vocab": 3}, [], "is not a tokenizer with the tokens of a model: "),
        ({}, [], "is not a tokenizer with the tokens of a model: KeyError 'vocab'"),
        ({"vocab": {"a": 0}}, [3], "is not a tokenizer with the tokens of a model: TypeError"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(folder, model, added, message):
    """No row is given to another token, or left out."""
    (folder / "tokenizer.json").write_text(_tokenizer(model, added))
    with pytest.raises(VectorFileError, match=message):
        load_vectors(folder)


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff", b"[1]", b"null"])
def test_file_that_is_no_tokenizer_is_refused(folder, contents):
    """The message names the file."""
    (folder / "tokenizer.json").write_bytes(contents)
    with pytest.raises(VectorFileError, match=r"tokenizer\.json' is not a tokenizer with the tokens of a model"):
        load_vectors(folder)


def test_words_in_a_file(folder):
    """words_file= is preferred to the tokenizer, and works without one."""
    (folder / "w.txt").write_text("x\ny\nz\n")
    assert load_vectors(folder, words_file=folder / "w.txt").words == ["x", "y", "z"]
    (folder / "tokenizer.json").unlink()
    assert load_vectors(folder, words_file=folder / "w.txt").words == ["x", "y", "z"]
    with pytest.raises(VectorFileError, match=r"must be in tokenizer\.json, .* no such file\. Pass words_file="):
        load_vectors(folder)
    (folder / "w.txt").write_text("x\ny\n")
    with pytest.raises(VectorFileError, match=r"model\.safetensors' has 3 rows, but '.*w\.txt' has 2 words"):
        load_vectors(folder, words_file=folder / "w.txt")


def test_other_tensors(folder):
    """sentence-transformers' name, the only table, or the one that member= names; none is guessed."""
    for name in ("embedding.weight", "bert.embeddings.weight"):
        assert _load(folder, {name: MATRIX, "bias": MATRIX[0]})["cat"].tolist() == [0, 1]
    tensors = {"a": MATRIX, "b": MATRIX + 1, "weights": MATRIX[:, 0]}
    assert _load(folder, tensors, member="b")["cat"].tolist() == [1, 2]
    with pytest.raises(
        ArgumentError,
        match=r"member= must name the tensor .*model\.safetensors'.* Received: None; .* 'a' \(F32 \(3, 2\)\), 'b'",
    ):
        load_vectors(folder)
    with pytest.raises(ArgumentError, match="Received: 'c'"):
        load_vectors(folder, member="c")
    with pytest.raises(VectorFileError, match=r"contains no tensor of shape \(tokens, width\)"):
        _load(folder, {"bias": MATRIX[0]})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"embeddings": MATRIX, "mapping": np.array([0, 1, 3])},
            "expected rows from 0 to 2 in 'mapping', found 0 to 3",
        ),
        (
            {"embeddings": MATRIX, "mapping": np.array([0, 1, -1])},
            "expected rows from 0 to 2 in 'mapping', found -1 to 1",
        ),
        ({"embeddings": MATRIX, "mapping": MATRIX[0]}, r"expected one number per token in 'mapping', found F32 \(2,\)"),
        ({"embeddings": MATRIX, "weights": MATRIX[0]}, "expected 3 factors in 'weights', found 2"),
        ({"embeddings": MATRIX, "weights": MATRIX}, r"expected one number per token in 'weights', found F32 \(3, 2\)"),
        ({"embeddings": MATRIX, "weights": np.array([1, np.inf, 1])}, r"infinity .* in row 1 \(word '##ing'\)"),
        ({"embeddings": MATRIX * np.nan}, r"NaN, .* in row 0 \(word 'cat'\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder, tensors, message, recwarn):
    """The message says what was expected and what is there."""
    with pytest.raises(VectorFileError, match=message):
        _load(folder, tensors)
    assert not list(recwarn)


def _entry(**changes):
    return {"embeddings": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]} | changes}


@pytest.mark.parametrize(
    "contents",
    [
        _packed(_entry(shape=[10**12, 300])),
        _packed(_entry(), bytes(23)),
        _packed(_entry(), bytes(25)),
        _packed(_entry(shape=[3, -2])),
        _packed(_entry(shape="32")),
        _packed(_entry(dtype=["F32"])),
        _packed(_entry(data_offsets=[24, 0])),
        _packed(_entry(data_offsets=[0])),
        _packed({"embeddings": 3}),
        _packed(b"{" * 50),
        _packed(b"{\xff}"),
        b"\0\0\0\x05\0\0\0\0{}",
    ],
)
def test_damaged_header_is_refused(folder, contents):
    """Everything it claims is checked against the file, before anything is allocated."""
    (folder / "model.safetensors").write_bytes(contents)
    with pytest.raises(VectorFileError, match=r"model\.safetensors' is not a complete safetensors file: .+"):
        load_vectors(folder)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (_packed(_entry(shape=[0, 2**62], data_offsets=[0, 0])), "contains no vectors"),
        (_packed(_entry(dtype="F8_E4M3", data_offsets=[0, 6]), bytes(6)), "contains no tensor of shape"),
    ],
)
def test_tables_that_are_not_read(folder, contents, message):
    """A table without rows, and a type that NumPy doesn't have."""
    (folder / "model.safetensors").write_bytes(contents)
    with pytest.raises(VectorFileError, match=rf"model\.safetensors' {message}"):
        load_vectors(folder)


@pytest.mark.parametrize("contents", [b"", b"a 1 2\nb 3 4\n", b"\xff" * 7 + b"\x7f{}"])
def test_other_file_under_this_format_is_refused(folder, contents):
    """Text is no safetensors file, and no header is longer than the format allows."""
    (folder / "model.safetensors").write_bytes(contents)
    with pytest.raises(
        VectorFileError, match=r"model\.safetensors' is not a complete safetensors file: it does not begin"
    ):
        load_vectors(folder, format="safetensors")


def test_truncated_file_is_refused(folder):
    """Cut anywhere."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(VectorFileError, match=r"model\.safetensors' is not a complete safetensors file"):
            load_vectors(folder, format="safetensors")


def test_compressed_file_is_refused(folder):
    """It cannot be mapped."""
    path = folder / "model.safetensors"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(VectorFileError, match=r"inside a \.gz file: unpack it first"):
        load_vectors(folder)


@PROPERTY
@given(finite_bits(), st.data())
def test_save_and_load_are_inverse(tmp_path, matrix, data):
    """Any words that UTF-8 can hold, and every bit of the matrix."""
    words = data.draw(st.lists(TEXTS, min_size=len(matrix), max_size=len(matrix), unique=True))
    comes_back(words, matrix, tmp_path / "v.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_types_are_kept(tmp_path, dtype):
    """The file has the type of the matrix."""
    path = save_vectors(KeyedVectors(["a", "b", "c"], MATRIX.astype(dtype)), tmp_path / "v.safetensors")
    assert f'"dtype":"{NAMES[dtype]}"'.encode() in path.read_bytes()
    np.testing.assert_array_equal(load_vectors(path).matrix, MATRIX)


def test_files_that_are_written(tmp_path):
    """Each table has a tokenizer of its own; only a model gets a config, and none is overwritten."""
    vectors = KeyedVectors(["a", "b", "c"], MATRIX)
    save_vectors(vectors, tmp_path / "v.safetensors")
    save_vectors(KeyedVectors(["x"], MATRIX[:1]), tmp_path / "w.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}{ending}" for name in "vw" for ending in (".safetensors", ".tokenizer.json")
    ]
    assert load_vectors(tmp_path / "v.safetensors").words == ["a", "b", "c"]
    save_vectors(vectors, tmp_path / "m" / "model.safetensors")
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == {"normalize": False}
    (tmp_path / "m" / "config.json").write_text("kept")
    save_vectors(vectors, tmp_path / "m" / "model.safetensors")
    assert (tmp_path / "m" / "config.json").read_text() == "kept"


def test_words_of_another_save_are_refused(tmp_path):
    """A process killed between two files leaves words that belong to other vectors; they are refused."""
    path = save_vectors(KeyedVectors(["a", "b", "c"], MATRIX), tmp_path / "v.safetensors")
    before = path.read_bytes()
    save_vectors(KeyedVectors(["x", "y", "z"], MATRIX), path)
    path.write_bytes(before)
    with pytest.raises(
        VectorFileError, match=r"words in v\.tokenizer\.json were written with another table than .*v\.safetensors"
    ):
        load_vectors(path)


def test_lone_surrogate_is_refused(tmp_path):
    """No tokenizer could be loaded with it."""
    with pytest.raises(VectorFileError, match=r"v\.safetensors' can't hold the word '\\udc80' \(row 1\)"):
        save_vectors(KeyedVectors(["a", "\udc80"], MATRIX[:2]), tmp_path / "v.safetensors")


def test_folder_without_a_model_is_refused(tmp_path):
    """Any other folder stays one."""
    with pytest.raises(VectorFileError, match="it is a folder"):
        load_vectors(tmp_path)
