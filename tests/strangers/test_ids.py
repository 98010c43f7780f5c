"""Tables of users, items and categories: ids without a time axis, and without padding."""

import keras
import numpy as np
import pytest
from keras.layers import Hashing, IntegerLookup, StringLookup

import embkeras as ek

USERS, ITEMS = np.array(["ann", "bob", "cy", "bob"]), np.array([10, 30, 10, 20])
RATINGS = np.array([1.0, 0.0, 0.0, 1.0])


def _table(vocabulary, name, **settings):
    """Random rows: these ids have no vectors to begin with."""
    rows = np.random.default_rng(0).normal(size=(len(vocabulary), 3))
    return ek.build_embedding(ek.AlignedMatrix(rows, vocabulary), name=name, **settings)


def test_two_towers():
    """A table for users and one for items, begun from vectors; each is thawed, watched, grown and reported by itself."""
    user_lookup, item_lookup = StringLookup(vocabulary=["ann", "bob", "cy"]), IntegerLookup(vocabulary=[10, 20, 30])
    users, items = ek.Vocabulary.from_layer(user_lookup), ek.Vocabulary.from_layer(item_lookup)
    vectors = ek.KeyedVectors(["10", "20", "40"], np.random.default_rng(1).normal(size=(3, 3)))  # such as node2vec's
    aligned = ek.align(vectors, items)
    assert (users.padding_id, items.padding_id, aligned.found.tolist()) == (None, None, [False, True, True, False])

    user, item = keras.Input((), dtype="int64", name="user"), keras.Input((), dtype="int64", name="item")
    towers = [_table(users, "users", trainable=True)(user), ek.build_embedding(aligned, name="items")(item)]
    assert all(tower.shape == (None, 3) for tower in towers)
    model = keras.Model({"user": user, "item": item}, keras.layers.Dot(1)(towers))
    model.compile(ek.RowWiseAdam(0.1), "mse")
    data = {"user": user_lookup(USERS), "item": item_lookup(ITEMS)}
    monitor = ek.DriftMonitor("items")
    model.fit(data, RATINGS, epochs=2, verbose=0, callbacks=[ek.unfreeze_at(1, "items"), monitor])
    moved = (model.get_layer("items").matrix() != aligned.values).any(axis=1)
    assert moved.tolist() == [False, True, True, True]  # no item was unknown
    report = ek.drift_report(aligned.values, model.get_layer("items").matrix(), items.tokens)
    assert len(report.table) == 4

    scores = model.predict(data, verbose=0)
    more = items.extended(["40"])
    ek.change_vocabulary(model, "items", before=items, after=ek.align(vectors, more))
    np.testing.assert_array_equal(model.predict(data, verbose=0), scores)
    np.testing.assert_array_equal(model.get_layer("items").matrix()[4], np.float32(vectors["40"]))


@pytest.mark.parametrize("form", [{"trainable": True}, {"trainable": "oov"}, {"stored": "int8"}], ids=str)
@pytest.mark.parametrize("layer", [Hashing(5), Hashing(5, mask_value=""), StringLookup(vocabulary=["ann", "cy"])])
def test_ids_of_any_shape(form, layer):
    """One id for each row, or any number of axes: one vector for each id, and no mask without padding."""
    vocabulary = ek.Vocabulary.from_layer(layer)
    table = _table(vocabulary, "users", **form)
    ids = layer(USERS)
    vectors = table(ids)
    assert vectors.shape == (4, 3) and (table.compute_mask(ids) is None) == (vocabulary.padding_id is None)
    np.testing.assert_array_equal(table(keras.ops.reshape(ids, (2, 1, 2))), keras.ops.reshape(vectors, (2, 1, 2, 3)))
    np.testing.assert_array_equal(vectors, table.matrix()[np.array(ids)])


def test_bins_have_no_vectors():
    """A Hashing layer knows no token that could be looked up; its coverage is nothing, not an error."""
    vocabulary = ek.Vocabulary.from_layer(Hashing(4))
    with pytest.raises(ek.errors.AlignmentError, match=r"no token to look up.* Received: Vocabulary\(4 tokens"):
        ek.align(ek.KeyedVectors(["ann"], np.ones((1, 3))), vocabulary)
    assert ek.AlignedMatrix(np.ones((4, 3)), vocabulary).coverage.types == 0


def test_a_tower_is_served_as_texts_of_one_id(tmp_path):
    """With an input of length 1; users that nobody knows are read as the OOV id."""
    lookup = StringLookup(vocabulary=["ann", "bob", "cy"])
    users = ek.Vocabulary.from_layer(lookup)
    user = keras.Input((1,), dtype="int64")
    model = keras.Model(user, keras.layers.Flatten()(_table(users, "users")(user)))
    export = ek.ExportedModel(ek.export_saved_model(model, tmp_path / "users", vocabulary=users))
    table = model.get_layer("users").matrix()
    np.testing.assert_allclose(export.scores([[1], [3], [99]]), table[[1, 3, 0]], atol=1e-6)
