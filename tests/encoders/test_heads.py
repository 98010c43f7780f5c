"""A classifier on an encoder: trained by a schedule, saved, exported, and with another vocabulary."""

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.errors import ArgumentError
from tests.encoders.folders import TEXTS, write_folder

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A BERT of two narrow blocks with exact GELU."""
    return ek.load_pretrained(write_folder(tmp_path_factory.mktemp("bert") / "x", hidden_act="gelu"))


@pytest.fixture
def model(read):
    """A classifier of two classes."""
    return ek.build_encoder_classifier(read, 2)


@pytest.fixture
def ids(read):
    """Ids of the texts."""
    return read.tokenizer.encode_batch(TEXTS)


def test_one_flat_model(model, ids):
    """Layers have short names, the token table is an embkeras layer that reads rows, and only ids go in."""
    assert [layer.name for layer in model.layers] == [
        *("token_ids", "token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm"),
        *(
            "embeddings_dropout",
            "padding_mask",
            "transformer_layer_0",
            "transformer_layer_1",
            "pool",
            "dropout",
            "scores",
        ),
    ]
    assert isinstance(model.get_layer("token_embedding"), ek.PretrainedEmbedding)
    np.testing.assert_allclose(np.asarray(model(ids)).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_pooling_and_padding(pool, read, ids):
    """One vector a text, from the first token or the mean; padding doesn't change it."""
    model = ek.build_encoder_classifier(read, 3, pool=pool)
    padded = np.pad(ids, ((0, 0), (0, 5)))
    np.testing.assert_allclose(model(ids), model(padded), atol=1e-6)
    text = keras.Model(model.input, model.get_layer("pool").output)(ids)
    vectors = np.asarray(keras.Model(model.input, model.get_layer("transformer_layer_1").output)(ids))
    weights = (ids != 0) / (ids != 0).sum(1, keepdims=True) if pool == "mean" else np.eye(1, ids.shape[1])
    np.testing.assert_allclose(text, np.einsum("btd,bt->bd", vectors, np.broadcast_to(weights, ids.shape)), atol=1e-6)


def test_gradual_unfreezing(read, model, ids):
    """Blocks thaw from the top; what is frozen stays bit-identical."""
    model.compile(ek.RowWiseAdam(1e-3), "sparse_categorical_crossentropy")
    before, moved = {weight.path: np.array(weight) for weight in model.weights}, []

    def note(epoch, logs):
        moved.append({each.path.split("/")[0] for each in model.weights if (np.array(each) != before[each.path]).any()})

    below, first, second = read.layer_groups
    schedule = ek.gradual_unfreeze([below + first, second], start=0)
    record = keras.callbacks.LambdaCallback(on_epoch_end=note)
    model.fit(ids, np.array([0, 1, 1, 0]), epochs=2, verbose=0, callbacks=[schedule, record])
    assert moved == [{*second, "scores"}, {*below, *first, *second, "scores"}]


def test_saved_and_loaded(model, ids, tmp_path):
    """Exact GELU survives a .keras file, and so do frozen blocks, whose inner layers Keras thaws."""
    model.get_layer("transformer_layer_0").trainable = False
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(ids), model(ids))
    assert not [each.path for each in loaded.trainable_variables if each.path.startswith("transformer_layer_0")]


def test_longer_than_the_positions(read, model):
    """An error that names the limit, the length and what to do; encode_batch cuts."""
    with pytest.raises(ArgumentError, match=r"up to 16 tokens.*17"):
        model(np.full((1, 17), 5))
    ids = read.tokenizer.encode_batch(["a " * 30], read.max_length)
    assert model(ids).shape == (1, 2) and ids[0, -1] == read.tokenizer.token_to_id["[SEP]"]


def test_export(ids, tmp_path):
    """The export takes ids and texts, stores the token table as int8, and knows how long texts may be."""
    read = ek.load_pretrained(write_folder(tmp_path / "x", num_hidden_layers=1))
    model = ek.build_encoder_classifier(read, 2)
    version = ek.export_saved_model(
        model, tmp_path / "m", vocabulary=read.tokenizer, dtype="int8", class_names=["n", "y"]
    )
    served = ek.ExportedModel(tmp_path / "m")
    wanted = np.asarray(model(ids))
    np.testing.assert_allclose(served.ask("serving_default", token_ids=ids)["scores"], wanted, atol=0.02)
    answers = served.predict(TEXTS)
    assert list(answers["label"]) == [["n", "y"][best] for best in wanted.argmax(1)]
    assert served.ask("serving_default", token_ids=np.full((1, 40), 5))["scores"].shape == (1, 2)
    assert served.card["inputs"][0]["max_length"] == read.max_length
    np.testing.assert_array_equal(ek.TextEncoder(version).encode(TEXTS), ids)


def test_fewer_pieces(read, model, ids):
    """change_vocabulary trims the token table to the pieces that a task needs; scores are the same to the bit."""
    before, scores = read.tokenizer, np.asarray(model(ids))
    kept = np.union1d(np.unique(ids), [0, 1, 2, 3])
    after = ek.Vocabulary([before.tokens[id_] for id_ in kept], padding_id=0, oov_ids=(1,), tokenizer=before.tokenizer)
    table = ek.AlignedMatrix(model.get_layer("token_embedding").matrix()[kept], after)
    ek.change_vocabulary(model, "token_embedding", before=before, after=table)
    assert model.get_layer("token_embedding").input_dim == len(kept) < len(before)
    np.testing.assert_array_equal(model(after.encode_batch(TEXTS)), scores)


def test_pairs_and_labels(read):
    """Pairs have segments, in a file too; labels that exclude nothing have scores of their own; numbers are unbounded."""
    ids = read.tokenizer.encode_pairs(["cat", "dog"], ["dog cab", "b"], 8)
    model = ek.build_encoder_classifier(read, 3, pairs=True, multi_label=True)
    scores = np.asarray(model(ids))
    assert scores.shape == (2, 3) and abs(scores.sum(1) - 1).min() > 1e-3
    assert model.get_layer("segment_embedding").separator_id == read.tokenizer.token_to_id["[SEP]"]
    values = ek.build_encoder_regressor(read, 2, pool="mean")
    assert values(ids).shape == (2, 2) and values.get_layer("values").activation is keras.activations.linear


def test_pairs_without_segments(tmp_path):
    """An encoder with one segment reads pairs by their separators alone."""
    read = ek.load_pretrained(write_folder(tmp_path / "x", "roberta"))
    model = ek.build_encoder_classifier(read, 2, pairs=True)
    assert model.get_layer("segment_embedding").separator_id is None
    assert model(read.tokenizer.encode_pairs(["cat"], ["dog"])).shape == (1, 2)


def test_sentence_vectors(read, ids):
    """Vectors of length 1, or the mean as it is."""
    vectors = np.asarray(ek.build_sentence_encoder(read, pool="mean")(ids))
    plain = np.asarray(ek.build_sentence_encoder(read, pool="mean", normalize=False)(ids))
    np.testing.assert_allclose(vectors, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_tagger(read):
    """Scores for each token; only the first piece of a word weighs in the loss."""
    ids, labels, weights = ek.encode_tagged(read.tokenizer, [["cab", "dog"], ["a"]], [[1, 2], [0]])
    model = ek.build_encoder_tagger(read, 3)
    scores = np.asarray(model(ids))
    assert scores.shape == (*ids.shape, 3)
    model.compile(loss="sparse_categorical_crossentropy")
    loss = model.evaluate(ids, labels, sample_weight=weights, verbose=0)
    own = -np.log(np.take_along_axis(scores, labels[..., None], -1)[..., 0]) * weights
    assert loss == pytest.approx(own.sum() / ids.size, rel=1e-4) and (weights.sum(), ids.size) == (3, 12)


def test_wrong_arguments(read):
    """Each is refused with what was received."""
    for positional, named, match in (
        ((read.folder, 2), {}, "load_pretrained.*PosixPath"),
        ((read, 1), {}, "num_classes.*1"),
        ((read, 2), {"pairs": 1}, "pairs .*1"),
        ((read, 2), {"multi_label": "no"}, "multi_label .*'no'"),
        ((read, 2), {"pool": "max"}, "pool .*'max'"),
        ((read, 2), {"dropout": 1}, "dropout .*1"),
        ((read, 2), {"name": "a/b"}, "name .*'a/b'"),
    ):
        with pytest.raises(ArgumentError, match=match):
            ek.build_encoder_classifier(*positional, **named)
