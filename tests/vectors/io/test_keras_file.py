"""Tables in .keras files: every form a layer stores, the words beside them, and damage."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from embkeras import Vocabulary, build_embedding, combine_embeddings, load_vectors
from embkeras.errors import ArgumentError, EmbkerasWarning, VectorFileError
from embkeras.vectors.io import keras_file

WORDS = ["cat", "sat", "mat", "dog", "ran", "far", "sun", "sky"]


def save(path, *layers, before=()):
    """A model of these embedding layers, after layers that make ids of texts, saved."""
    given = keras.Input((4,), dtype="string" if before else "int64", name="given")
    ids = given
    for layer in before:
        ids = layer(ids)
    keras.Model(given, [layer(ids) for layer in layers]).save(path)
    return path


def lookup(**settings):
    """A layer that makes ids of WORDS, with "" and "[UNK]" before them: ten tokens, as the fixture's."""
    return keras.layers.StringLookup(**{"vocabulary": WORDS, "mask_token": "", **settings})


@pytest.fixture
def table(aligned):
    """What each layer gives for its ids."""
    return lambda layer: keras.ops.convert_to_numpy(layer(np.arange(10)[None]))[0]


@pytest.mark.parametrize("form", ["stock", "frozen", "rows", "oov", "float16", "int8", "lora", "quantized"])
def test_every_form_of_table(tmp_path, aligned, table, form):
    """What is read is what the layer gives, whatever it is stored as."""
    mask = np.arange(10) % 3 == 1
    if form == "stock":
        layer = keras.layers.Embedding(10, 4)
    elif form in ("float16", "int8"):
        layer = build_embedding(aligned, trainable=mask, stored=form)
    else:
        layer = build_embedding(aligned, trainable={"rows": mask, "oov": "oov"}.get(form, False))
    if form == "lora":
        layer.enable_lora(2, lora_alpha=3, a_initializer="normal")
    layer(np.arange(10)[None])
    if layer.trainable_variables and form not in ("stock", "lora"):  # rows that trained stand elsewhere than the base
        layer.trainable_variables[0].assign_add(np.eye(*layer.trainable_variables[0].shape))
    if form == "quantized":
        layer.quantize("int8")
    loaded = load_vectors(save(tmp_path / "m.keras", layer, before=[lookup()]))
    assert loaded.words == ["", "[UNK]", *WORDS] and loaded.provenance.format == "keras"
    np.testing.assert_allclose(loaded.matrix, table(layer), rtol=1e-6, atol=1e-7)


def test_bfloat16(tmp_path):
    """Which HDF5 has no type for."""
    layer = keras.layers.Embedding(10, 4, dtype="bfloat16")
    path = save(tmp_path / "m.keras", layer, before=[lookup()])
    expected = np.array(keras.ops.cast(layer.embeddings, "float32"))
    np.testing.assert_array_equal(load_vectors(path).matrix, expected)


@pytest.mark.parametrize("name", ["static", "tuned", "encoder/deep", "both/left", "both/right"])
def test_member_names_the_layer(tmp_path, aligned, name):
    """Layers by their path: at the top, in an inner model, in a combination."""
    layers = {each: keras.layers.Embedding(10, width, name=each) for width, each in enumerate(["static", "tuned"], 2)}
    ids = keras.Input((4,), dtype="int64")
    layers["encoder/deep"] = keras.layers.Embedding(10, 5, name="deep")
    encoder = keras.Model(ids, layers["encoder/deep"](ids), name="encoder")
    left, right = (build_embedding(aligned, name=each) for each in ("left", "right"))
    right.assign_table(aligned.values * 2)
    layers |= {"both/left": left, "both/right": right}
    both = combine_embeddings([left, right], name="both")
    path = save(tmp_path / "m.keras", layers["static"], layers["tuned"], encoder, both, before=[lookup()])
    np.testing.assert_array_equal(load_vectors(path, member=name).matrix, np.array(layers[name].embeddings))


@pytest.mark.parametrize("member", [None, "third"])
def test_several_tables_need_a_name(tmp_path, member):
    """The message names them with their sizes."""
    path = save(tmp_path / "m.keras", *(keras.layers.Embedding(10, 4, name=name) for name in ("one", "two")))
    with pytest.raises(ArgumentError, match=rf"Received: {member!r}; there are 'one' \(10 x 4\), 'two' \(10 x 4\)"):
        load_vectors(path, member=member)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: lookup(),
        lambda: lookup(vocabulary=["", "[UNK]", *WORDS]),
        lambda: keras.layers.StringLookup(vocabulary=["x", *WORDS]),
        lambda: keras.layers.StringLookup(vocabulary=WORDS, num_oov_indices=2),
    ],
)
def test_words_are_those_that_the_layer_looks_up(tmp_path, layer):
    """Special tokens stand where the layer has them; of several with one name, the first is kept."""
    layer = layer()
    expected = [str(word) for word in layer.get_vocabulary()]
    path = save(tmp_path / "m.keras", keras.layers.Embedding(10, 4), before=[layer])
    if len(set(expected)) < 10:
        with pytest.warns(EmbkerasWarning, match="holds 1 rows whose word had come before"):
            loaded = load_vectors(path)
    else:
        loaded = load_vectors(path)
    assert loaded.words == list(dict.fromkeys(expected))


def test_adapted_vocabulary_is_in_the_assets(tmp_path):
    """With a word that some would cut in two lines."""
    layer = keras.layers.TextVectorization(standardize=None, split=None, output_mode="int")
    layer.adapt(np.array([[word] for word in ["new\u2028york", *WORDS[:7]]]))
    given = keras.Input((1,), dtype="string")
    keras.Model(given, keras.layers.Embedding(10, 4)(layer(given))).save(tmp_path / "m.keras")
    loaded = load_vectors(tmp_path / "m.keras")
    assert loaded.words == layer.get_vocabulary() and "new\u2028york" in loaded


def test_words_file(tmp_path, aligned):
    """A list of words, or a vocabulary as it was saved."""
    path = save(tmp_path / "m.keras", build_embedding(aligned))
    (tmp_path / "list.txt").write_text("\n".join(["pad", "oov", *WORDS]))
    assert load_vectors(path, words_file=tmp_path / "list.txt").words == ["pad", "oov", *WORDS]
    aligned.vocabulary.save(tmp_path / "vocabulary.json")
    loaded = load_vectors(path, words_file=tmp_path / "vocabulary.json", words=["Sun", "moon"])
    assert loaded.words == ["sun"]
    np.testing.assert_array_equal(loaded["sun"], aligned.values[aligned.vocabulary.token_to_id["sun"]])


@pytest.mark.parametrize(
    ("before", "found"),
    [
        ([], "found no layer that makes ids of words"),
        ([lookup(vocabulary=WORDS[:3])], "found vocabularies of 5 words"),
    ],
)
def test_words_that_are_not_there(tmp_path, before, found):
    """The message says how many are wanted, what there is, and how to give them."""
    path = save(tmp_path / "m.keras", keras.layers.Embedding(10, 4), before=before)
    with pytest.raises(VectorFileError, match=rf"the vocabulary, 10 words, .*{found}\. Give words_file="):
        load_vectors(path)


def test_words_file_of_another_length(tmp_path):
    """Both numbers are named."""
    path = save(tmp_path / "m.keras", keras.layers.Embedding(10, 4))
    (tmp_path / "list.txt").write_text("a\nb")
    with pytest.raises(VectorFileError, match=r"has 10 rows, but its words \(.*list\.txt\) are 2"):
        load_vectors(path, words_file=tmp_path / "list.txt")


def test_limit_and_dtype(tmp_path, aligned):
    """As for every format."""
    path = save(tmp_path / "m.keras", build_embedding(aligned), before=[lookup()])
    loaded = load_vectors(path, limit=3, dtype="float16")
    assert (loaded.words, loaded.matrix.dtype, loaded.provenance.rows) == (["", "[UNK]", "cat"], np.float16, 3)


def test_model_without_a_table(tmp_path):
    """It says that there is none."""
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    with pytest.raises(VectorFileError, match="has no Embedding layer"):
        load_vectors(tmp_path / "m.keras")


@pytest.fixture
def whole(tmp_path):
    """A small model of one layer, its words in the config."""
    return save(tmp_path / "whole.keras", keras.layers.Embedding(10, 4), before=[lookup()])


def test_packed_by_a_tool(whole, tmp_path):
    """An archive that was unpacked and packed anew, compressed, reads as before."""
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "p.keras", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    np.testing.assert_array_equal(load_vectors(tmp_path / "p.keras").matrix, load_vectors(whole).matrix)


def test_cut_off_anywhere(whole, tmp_path):
    """Never returned as if whole."""
    contents = whole.read_bytes()
    for size in range(1, len(contents), 211):
        (tmp_path / "cut.keras").write_bytes(contents[:size])
        with pytest.raises(VectorFileError, match=r"cut\.keras"):
            load_vectors(tmp_path / "cut.keras", format="keras")


def test_flipped_bit_in_the_table(whole, tmp_path):
    """Found by the archive's checksum."""
    contents = bytearray(whole.read_bytes())
    at = contents.find(load_vectors(whole).matrix.tobytes())
    assert at > 0
    contents[at] ^= 1
    (tmp_path / "flipped.keras").write_bytes(contents)
    with pytest.raises(VectorFileError, match=r"flipped\.keras' is not a whole \.keras file: Bad CRC-32"):
        load_vectors(tmp_path / "flipped.keras")


def changed(whole, tmp_path, *, config=None, weights=None):
    """The model with another config or other weights."""
    path = tmp_path / "changed.keras"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as copy:
        said = json.loads(archive.read("config.json"))
        if config:
            config(next(each for each in said["config"]["layers"] if each["class_name"] == "Embedding")["config"])
        copy.writestr("config.json", json.dumps(said))
        (tmp_path / "w.h5").write_bytes(archive.read("model.weights.h5"))
        if weights:
            with h5py.File(tmp_path / "w.h5", "a") as file:
                weights(file["layers/embedding/vars"])
        copy.write(tmp_path / "w.h5", "model.weights.h5")
    return path


def _claim(group):
    del group["0"]
    group.create_dataset("0", (10, 10**11), "f4")  # never written, so that it takes no room


def _link(group):
    del group["0"]
    group["0"] = h5py.ExternalLink("other.h5", "/0")


def _outside(group):
    del group["0"]
    group.create_dataset("0", (10, 4), "f4", external=[("other.bin", 0, 160)])


def _nan(group):
    group["0"][3, 1] = np.nan


def _twice(group):
    group["1"] = np.ones(3)


@pytest.mark.parametrize(
    ("config", "weights", "said"),
    [
        (None, _claim, "is damaged, or stored otherwise than Keras does"),
        (None, _link, "before it was built|stored otherwise"),
        (None, _outside, "stored otherwise than Keras does"),
        (None, _nan, r"holds NaN, infinity .* in row 3 \(word 'sat'\)"),
        (None, _twice, r"stored in 2 variables in a way that is not read here \(int4\?\)"),
        (None, lambda group: group.pop("0"), "saved before it was built, and has no table"),
        (lambda config: config.update(output_dim=5), None, "expected 10 rows of width 5, found 10 of 4"),
        (lambda config: config.update(name="other"), lambda group: group.attrs.pop("name"), None),
    ],
)
def test_what_config_and_weights_say_must_fit(whole, tmp_path, config, weights, said):
    """One line with the layer's name; a layer without a name in the weights is found by its shape."""
    path = changed(whole, tmp_path, config=config, weights=weights)
    if said is None:
        assert len(load_vectors(path)) == 10
        return
    with pytest.raises(VectorFileError, match=said):
        load_vectors(path)


def test_config_that_claims_to_be_endless(whole, tmp_path, monkeypatch):
    """It is not read."""
    monkeypatch.setattr(keras_file, "_LONGEST_TEXT", 100)
    with pytest.raises(VectorFileError, match=r"config\.json says that it has .* bytes"):
        load_vectors(whole)


def test_it_is_not_written(tmp_path, aligned):
    """A table alone is no model."""
    from embkeras import KeyedVectors, save_vectors

    vectors = KeyedVectors(["cat"], np.ones((1, 2), "float32"))
    with pytest.raises(ArgumentError, match="Received: 'keras', which is only read"):
        save_vectors(vectors, tmp_path / "m.keras", format="keras")


def test_vocabulary_is_the_layers(tmp_path, aligned):
    """Loaded vectors align to the vocabulary that the layer has."""
    from embkeras import align

    layer = lookup()
    path = save(tmp_path / "m.keras", build_embedding(aligned), before=[layer])
    again = align(load_vectors(path), Vocabulary.from_layer(layer), oov="zeros")
    np.testing.assert_array_equal(again.values[2:], aligned.values[2:])
