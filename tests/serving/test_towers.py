"""Towers and the search among them: a recommender with side features, and a semantic search, asked in every way."""

import keras
import numpy as np
import pytest
from keras import layers

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError, UnknownLayerError
from embkeras.serving.check import check_saved_model
from embkeras.serving.client import ServingClient
from embkeras.serving.local import ExportedModel
from embkeras.serving.towers import recorded
from tests.serving.c_api import CApiError, Session
from tests.serving.servers import InTensorFlow, Model, grpc_server, rest_server

USERS = ek.Vocabulary(["", "[UNK]", "ann", "bob", "cid"])
FILMS = ek.Vocabulary(["", "[UNK]", *(f"film {number}" for number in range(9))])
WORDS = ek.Vocabulary.from_texts(["a b c d e f g h"])
DOCUMENTS = ["a b c", "d e", "a b c", "f g h", "zz a", "h"]
TOWERS = {"query": "query_tower", "item": "item_tower"}


class QueryTower(keras.Model):
    """A user and the age as side feature, as the tutorials on retrieval build it: embedding, normalization, dense layers."""

    def __init__(self):
        super().__init__(name="query_tower")
        self.users, self.age = layers.Embedding(len(USERS), 4), layers.Normalization()
        self.age.adapt(np.array([[20.0], [30.0], [50.0]]))
        self.dense = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(3)])

    def call(self, features):
        """Vectors of users."""
        return self.dense(keras.ops.concatenate([self.users(features["user"]), self.age(features["age"])], axis=1))


@pytest.fixture(scope="module")
def recommender():
    """Two towers, and the rating that they are trained for; the vector of a film is a row of its table."""
    keras.utils.set_random_seed(0)
    user, age = keras.Input((), dtype="int32", name="user"), keras.Input((1,), name="age")
    film = keras.Input((), dtype="int64", name="film")
    query = QueryTower()({"user": user, "age": age})
    item = layers.Embedding(len(FILMS), 3, embeddings_initializer="normal", name="item_tower")(film)
    return keras.Model({"user": user, "age": age, "film": film}, layers.Dot(1)([query, item]))


@pytest.fixture(scope="module")
def folder(recommender, tmp_path_factory):
    """Its export."""
    path = tmp_path_factory.mktemp("recommender") / "films"
    return ek.export_saved_model(
        recommender, path, vocabulary={"user": USERS, "film": FILMS}, towers=TOWERS, check=False
    )


@pytest.fixture(scope="module")
def search():
    """A question and a document through one encoder, compared by their cosine, from which a probability is made."""
    keras.utils.set_random_seed(0)
    rows = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype("float32")
    words, table = keras.Input((None,), dtype="int64"), ek.build_embedding(ek.AlignedMatrix(rows, WORDS))
    encoder = keras.Model(words, layers.Dense(3)(layers.GlobalAveragePooling1D()(table(words))), name="encoder")
    question, document = (keras.Input((None,), dtype="int64", name=name) for name in ("question", "document"))
    cosine = layers.Dot(1, normalize=True, name="cosine")([encoder(question), encoder(document)])
    return keras.Model([question, document], layers.Dense(1, activation="sigmoid")(cosine))


@pytest.fixture(scope="module")
def searched(search, tmp_path_factory):
    """Its export with six documents."""
    path = tmp_path_factory.mktemp("search") / "documents"
    towers = dict.fromkeys(("question", "document"), "encoder")
    settings = {
        "candidates": {"document": DOCUMENTS},
        "similarity": "cosine",
        "dtype": "float16",
    }
    return ek.export_saved_model(
        search, path, vocabulary=WORDS, towers=towers, class_names=["other", "same"], **settings
    )


REQUEST = {"user": ["ann", "somebody", "cid"], "age": np.array([[20.0], [35.0], [60.0]], "float32")}


def _ratings(recommender):
    """Those of every film that can be recommended, by the model in memory: (users, films)."""
    films = np.arange(2, len(FILMS))
    inputs = {"user": np.repeat([2, 1, 4], len(films)), "age": np.repeat(REQUEST["age"], len(films), axis=0)}
    return recommender.predict(inputs | {"film": np.tile(films, 3)}, verbose=0).reshape(3, len(films))


def test_recommendations_are_the_best_rated_films(recommender, folder):
    """In this process and in the C library; padding and unknown films are never recommended; the table is stored once."""
    export, wanted = ExportedModel(folder, trusted=False), _ratings(recommender)
    best = np.argsort(-wanted, axis=1)
    ids, scores = export.nearest(REQUEST, k=9)
    np.testing.assert_array_equal(ids, best + 2)
    np.testing.assert_allclose(scores, np.take_along_axis(wanted, best, axis=1), atol=1e-5)
    session, fed = Session(folder), {"user": np.array([2, 1, 4]), "age": REQUEST["age"]}
    answers = session.run("nearest", fed | {"k": np.array([4, 1, 2], np.int32)})
    np.testing.assert_array_equal(answers["neighbours"][0], best[0, :4] + 2)
    np.testing.assert_array_equal(answers["neighbours"][1], [best[1, 0] + 2, -1, -1, -1])
    np.testing.assert_allclose(answers["scores"][0], scores[0, :4], atol=1e-6)
    with pytest.raises(CApiError, match=r"k must lie in \[1, 9\]\. Received\] \[10\] \[in text\] \[2\]"):
        session.run("nearest", fed | {"k": np.array([4, 1, 10], np.int32)})
    assert sum(shape == (len(FILMS), 3) for shape, _ in export.variables()) == 1
    assert export.card["nearest"] == {
        "tower": "query", "of": "item", "count": len(FILMS), "excluded": [0, 1], "similarity": "dot", "ids_of": "film",
        "stored": False,
    }  # fmt: skip
    readme = (folder / "README.md").read_text("utf-8")
    assert "`nearest` | `age` float32 (batch, 1), `user` int64 (batch,), `k` int32 (batch,)" in readme


def test_towers_return_their_layers_vectors(recommender, folder):
    """Tokens or ids, in this process and in the C library; ids outside a table are unknown."""
    export = ExportedModel(folder)
    table = recommender.get_layer("item_tower").embeddings.numpy()
    np.testing.assert_array_equal(export.tower_vectors("item", ["film 3", "film"]), table[[5, 1]])
    np.testing.assert_array_equal(Session(folder).ask("item", film=[5, -7, 99])["vectors"], table[[5, 1, 1]])
    query = recommender.get_layer("query_tower")({"user": np.array([2, 1, 4]), "age": REQUEST["age"]})
    np.testing.assert_allclose(export.tower_vectors("query", REQUEST), query, atol=1e-6)
    assert export.tower_vectors("item", np.zeros(0, np.int64)).shape == (0, 3)


@pytest.mark.parametrize("server", [rest_server, grpc_server])
def test_clients_recommend_and_search(folder, searched, server):
    """Over REST and gRPC, as in this process, in batches."""
    if server is grpc_server:
        pytest.importorskip("tensorflow_serving", reason="the stubs come with the extra `serving`")
    for path, request, tower, k in ((folder, REQUEST, "query", 9), (searched, ["a b", "", "h g f e"], "question", 6)):
        export, served = ExportedModel(path), Model("m", {1: InTensorFlow(path)})
        with server(served) as url, ServingClient(url, model="m", encoder=path, batch_size=2, timeout=30.0) as client:
            ids, scores = client.nearest(request, k)
            vectors = client.tower_vectors(tower, request)
            with pytest.raises(ArgumentError, match=rf"k must .*{k}.* Received: {k + 1}"):
                client.nearest(request, k + 1)
            with pytest.raises(ArgumentError, match=r"has the towers .*Received: 'users'"):
                client.tower_vectors("users", request)
        np.testing.assert_array_equal(ids, export.nearest(request, k)[0])
        np.testing.assert_allclose(scores, export.nearest(request, k)[1], atol=1e-6)
        np.testing.assert_allclose(vectors, export.tower_vectors(tower, request), atol=1e-6)
        assert [each[1] for each in served.asked if each[1] != "card"] == ["nearest"] * 2 + [tower] * 2


def test_clients_name_classes_and_return_vectors_of_several_inputs(searched):
    """As with one input: class names, the rows of the only table, and predictions."""
    export, served = ExportedModel(searched), Model("m", {1: InTensorFlow(searched)})
    texts = {"question": ["a b", "c", "d"], "document": ["a b", "", "h g f e"]}
    ids = {name: WORDS.encode_batch(rows) for name, rows in texts.items()}
    with rest_server(served) as url, ServingClient(url, model="m", encoder=searched, batch_size=2) as client:
        assert client.scores(ids, output="classes").tolist() == [["other", "same"]] * 3
        vectors, table = client.vectors([[2, 3], [4]]), client.predict(texts, threshold=0.99)
    np.testing.assert_array_equal(vectors[0], export.ask("embed", token_ids=np.array([[2, 3]]))["vectors"][0])
    assert table.columns.tolist() == ["question", "document", "label", "probability"]
    assert table["question"].tolist() == texts["question"] and table["label"].tolist() == ["other"] * 3
    np.testing.assert_allclose(1 - table["probability"], export.scores(ids)[:, 0], atol=1e-6)


def test_search_finds_the_most_similar_documents(search, searched):
    """Texts as candidates and as questions; of equal documents the first one comes first; padding changes nothing."""
    export = ExportedModel(searched)
    ids, scores = export.nearest(["a b c", "e"], k=6)
    assert ids[0, :2].tolist() == [0, 2] and sorted(ids[1].tolist()) == list(range(6))
    np.testing.assert_allclose(scores[0, :2], 1, atol=1e-6)
    pairs = [WORDS.encode_batch(["e"] * 6), WORDS.encode_batch(DOCUMENTS)]
    cosine = keras.Model(search.inputs, search.get_layer("cosine").output)
    np.testing.assert_allclose(scores[1], cosine.predict(pairs, verbose=0)[ids[1], 0], atol=2e-3)
    padded = np.array([[0, *WORDS.encode("a b c"), 0]])
    np.testing.assert_array_equal(export.nearest(padded, k=6)[0][0], ids[0])
    tables = [(shape, dtype.name) for shape, dtype in export.variables() if len(shape) == 2 and shape[0] > 1]
    assert sorted(tables) == [((5, 3), "float32"), ((6, 3), "float32"), ((len(WORDS), 5), "float16")]
    assert [each["call"] for each in export.card["towers"]] == [0, 1]


def test_check_finds_a_search_that_misses(searched, monkeypatch):
    """Another table than the one that is searched."""
    right = ExportedModel.variable
    monkeypatch.setattr(ExportedModel, "variable", lambda self, name: right(self, name)[::-1])
    with pytest.raises(SavedModelError, match=r"'nearest' finds rows .* instead of"):
        check_saved_model(searched)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"towers": []}, ArgumentError, r"towers must map names to layers.*Received: \[\]"),
        ({"towers": {"a b": "encoder"}}, ArgumentError, "letters, digits and '_'. Received: 'a b'"),
        ({"towers": {"text": "encoder"}}, ArgumentError, "name of another signature. Received: 'text'"),
        ({"towers": {"q": 3}}, ArgumentError, r"towers\['q'\] must name layers"),
        ({"towers": {"q": "none"}}, UnknownLayerError, "no layer named 'none'"),
        ({"towers": {"q": "encoder"}}, SavedModelError, "'encoder' is called 2 times, on question; document.*'q'"),
        (
            {"towers": {"question": "encoder/embedding*"}},
            SavedModelError,
            r"one vector for each row.*\(None, None, 5\)",
        ),
        ({"candidates": {"document": DOCUMENTS}}, ArgumentError, "pass towers= too"),
        ({"similarity": "l2"}, ArgumentError, "similarity must be .*'l2'"),
        (
            {"towers": {"document": "encoder"}, "candidates": {"document": DOCUMENTS}},
            ArgumentError,
            r"Layer 'cosine' normalizes.*similarity='cosine'",
        ),
        (
            {"towers": {"document": "encoder"}, "candidates": {"film": [[1]]}, "similarity": "cosine"},
            ArgumentError,
            "candidates of tower 'document': .*no 'document'",
        ),
        (
            {"towers": {"document": "encoder"}, "candidates": [[1], [99]], "similarity": "cosine"},
            ArgumentError,
            r"candidates of tower 'document': document must lie in \[0, \d+\)\. Received: 99 at text 1",
        ),
    ],
)
def test_towers_that_are_refused(search, tmp_path, settings, error, message):
    """The error names the tower and its layer."""
    with pytest.raises(error, match=message):
        ek.export_saved_model(search, tmp_path, vocabulary=WORDS, check=False, **settings)
    assert not list(tmp_path.iterdir())


def test_an_export_without_a_search_says_why(folder):
    """The reason is in the card."""
    export = ExportedModel(folder)
    export.card |= {"nearest": None, "no_nearest_reason": "no candidates were given"}
    with pytest.raises(SavedModelError, match="nothing to search: no candidates were given"):
        export.nearest(REQUEST)
    with pytest.raises(ArgumentError, match=r"has the towers query, item\. Received: 'user'"):
        export.tower_vectors("user", REQUEST)
    with pytest.raises(ArgumentError, match=r"takes the inputs age, user\. Received: no 'user'"):
        export.tower_vectors("query", {"age": REQUEST["age"]})


def test_recording_leaves_the_layer_as_it_was():
    """Its outputs in this thread are noted, and nothing stays on it; nested records each see all calls."""
    layer = layers.Dense(2)
    layer.build((None, 3))
    with recorded(layer) as outer, recorded(layer) as inner:
        answer = layer(np.ones((1, 3)))
    assert outer[0] is inner[0] and len(outer) == 1
    np.testing.assert_array_equal(outer[0], answer)
    assert "call" not in vars(layer)
