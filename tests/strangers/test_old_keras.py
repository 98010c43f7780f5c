"""Code of the classic tutorials: a Tokenizer, padding in front, and a matrix filled word by word."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek

TEXTS = ["The cat sat on the mat.", "A dog barked at the cat!", "Dogs bark; cats don't.", "unheard words", ""]
LABELS = np.array([0, 1, 1, 0, 0])
LENGTH = 6


@pytest.fixture(scope="module")
def tokenizer():
    """The Tokenizer of older Keras, fitted on the first texts."""
    tokenizer = tf.keras.preprocessing.text.Tokenizer()
    tokenizer.fit_on_texts(TEXTS[:3])
    return tokenizer


@pytest.fixture(scope="module")
def vectors():
    """Vectors of some of the words, and of one that no text has."""
    return ek.KeyedVectors(["the", "cat", "dog", "mat", "moon"], np.random.default_rng(0).normal(size=(5, 4)))


def _fitted(table, ids, *callbacks):
    keras.utils.set_random_seed(0)
    layers = [table, keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((LENGTH,), dtype="int64"), *layers])
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    model.fit(ids, LABELS, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def test_the_loop_over_word_index(tokenizer, vectors, tmp_path):
    """The ids, the matrix and the trained model are those of the old code; then its vocabulary grows and it is served."""
    sequences = keras.utils.pad_sequences(tokenizer.texts_to_sequences(TEXTS), maxlen=LENGTH)
    embedding_matrix = np.zeros((len(tokenizer.word_index) + 1, 4))
    for word, i in tokenizer.word_index.items():
        if word in vectors:
            embedding_matrix[i] = vectors[word]

    vocabulary = ek.Vocabulary.from_word_index(tokenizer.word_index)
    aligned = ek.align(vectors, vocabulary, fallbacks=(), oov="zeros")
    np.testing.assert_array_equal(vocabulary.encode_batch(TEXTS, LENGTH), sequences)
    np.testing.assert_array_equal(aligned.values, embedding_matrix.astype("float32"))
    own = ek.AlignedMatrix(embedding_matrix, vocabulary, found=embedding_matrix.any(axis=1))
    np.testing.assert_array_equal(own.found, aligned.found)

    stock = keras.layers.Embedding(*embedding_matrix.shape, weights=[embedding_matrix], trainable=False)
    old = _fitted(stock, sequences)  # frozen: stock code has no padding row that stays at zeros
    new = _fitted(ek.build_embedding(aligned, mask_zero=False), sequences)
    np.testing.assert_allclose(new.predict(sequences, verbose=0), old.predict(sequences, verbose=0), atol=1e-6)

    new = _fitted(ek.build_embedding(aligned, mask_zero=False), sequences, ek.unfreeze_at(1, "embedding"))
    table = new.layers[0].matrix()
    assert not table[0].any() and (table != aligned.values).any()
    scores = new.predict(sequences, verbose=0)
    more = vocabulary.extended(["moon"])
    ek.change_vocabulary(new, "embedding", before=vocabulary, after=ek.align(vectors, more, oov="zeros"))
    np.testing.assert_allclose(new.predict(more.encode_batch(TEXTS, LENGTH), verbose=0), scores, atol=1e-6)
    np.testing.assert_array_equal(new.layers[0].matrix()[-1], np.float32(vectors["moon"]))
    export = ek.ExportedModel(ek.export_saved_model(new, tmp_path / "old", vocabulary=more, class_names=["a", "b"]))
    np.testing.assert_allclose(export.scores(more.encode_batch(TEXTS, LENGTH)), scores, atol=1e-6)
    assert export.predict(TEXTS)["label"].tolist() == [["a", "b"][place] for place in scores.argmax(axis=1)]


def test_another_side_is_another_vocabulary(tokenizer, vectors):
    """A change to padding behind the text would give the same texts other scores."""
    before, after = (
        ek.Vocabulary.from_word_index(tokenizer.word_index, padding_side=side) for side in ("start", "end")
    )
    model = _fitted(ek.build_embedding(ek.align(vectors, before), mask_zero=False), before.encode_batch(TEXTS, LENGTH))
    with pytest.raises(
        ek.errors.ArgumentError, match=r"padding id and side.*padding_side='start'.*before; Vocab.*after"
    ):
        ek.change_vocabulary(model, "embedding", before=before, after=ek.align(vectors, after))
