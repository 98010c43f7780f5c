"""Texts to ids from an export's assets."""

import json
import re
import shutil

import numpy as np
import pytest

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError, VocabularyError
from embkeras.serving.names import card_sha256
from embkeras.serving.text_encoder import TextEncoder, id_rows
from tests.processes import run_python

VOCABULARY = ek.Vocabulary.from_texts(["good day", "bad day", "so so"])
TEXTS = ["a good day", "bad", ""]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model's folder with one version, exported without a check."""
    matrix = np.random.default_rng(0).normal(size=(len(VOCABULARY), 4)).astype("float32")
    model = ek.build_classifier(ek.AlignedMatrix(matrix, VOCABULARY), 2, architecture="mean")
    path = tmp_path_factory.mktemp("export") / "mood"
    return ek.export_saved_model(model, path, vocabulary=VOCABULARY, class_names=["no", "yes"], check=False).parent


@pytest.fixture
def assets(exported, tmp_path):
    """A copy of only the two files that a client needs."""
    for name in ("vocabulary.json", "embkeras.json"):
        shutil.copy(exported / "1" / "assets" / name, tmp_path)
    return tmp_path


def test_ids_are_those_of_the_vocabulary(exported):
    """int64, with shorter texts padded."""
    ids = TextEncoder(exported).encode(TEXTS)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, VOCABULARY.encode_batch(TEXTS))


def test_length_cuts_and_fills(exported):
    """`length` sets the number of tokens."""
    assert TextEncoder(exported).encode(TEXTS, length=2).shape == (3, 2)
    assert TextEncoder(exported).encode(TEXTS, length=9).shape == (3, 9)


def test_it_says_what_it_is(exported):
    """Fingerprint, size and class names are those of the export."""
    encoder = TextEncoder(exported)
    assert (encoder.fingerprint, encoder.size) == (VOCABULARY.fingerprint, len(VOCABULARY))
    assert encoder.class_names == ("no", "yes")
    assert repr(encoder) == f"TextEncoder(6 tokens, fingerprint {VOCABULARY.fingerprint[:12]}...)"


def test_any_folder_of_an_export_will_do(exported, assets, monkeypatch):
    """The model's folder, a version's, or a copy of the assets; the model is named like its folder."""
    monkeypatch.chdir(exported)
    found = [TextEncoder(path) for path in (exported, exported / "1", exported / "1" / "assets", assets, ".", "1")]
    assert {encoder.fingerprint for encoder in found} == {VOCABULARY.fingerprint}
    assert [encoder.model_name for encoder in found] == ["mood", "mood", None, None, "mood", "mood"]


def test_neither_tensorflow_nor_keras_is_loaded(assets):
    """In a fresh process, from the assets alone, with the REST client imported too."""
    code = (
        "import sys; from embkeras.serving.text_encoder import TextEncoder; from embkeras.serving.client import ServingClient\n"
        "print(TextEncoder(sys.argv[1]).encode(['good day']).tolist(), ServingClient('http://h', model='m').model)\n"
        "print(sorted({'tensorflow', 'keras', 'grpc', 'tensorflow_serving'} & set(sys.modules)))"
    )
    done = run_python("-c", code, assets)
    assert done.stdout.splitlines() == [f"{VOCABULARY.encode_batch(['good day']).tolist()} m", "[]"]


def test_folder_without_assets_is_refused(tmp_path):
    """The message names the folder and the file."""
    with pytest.raises(SavedModelError, match=rf"no assets of an export in '{tmp_path}': embkeras.json is missing"):
        TextEncoder(tmp_path)


def test_missing_vocabulary_is_refused(assets):
    """The card alone is not enough."""
    (assets / "vocabulary.json").unlink()
    with pytest.raises(VocabularyError, match="Cannot read the vocabulary"):
        TextEncoder(assets)


@pytest.mark.parametrize("contents", ["{", "[]", '{"format": "embkeras.saved_model"}', "[" * 100_000])
def test_damaged_card_is_refused(assets, contents):
    """Not JSON, not an object, without the needed keys, nested too deeply."""
    (assets / "embkeras.json").write_text(contents)
    with pytest.raises(SavedModelError, match="has a card that is damaged, or was written by another version"):
        TextEncoder(assets)


@pytest.mark.parametrize(
    ("key", "value"), [("class_names", 5), ("class_names", [1]), ("padding_id", "0"), ("outputs", None), ("warm_up", 8)]
)
def test_card_with_a_value_of_another_type_is_refused(assets, key, value):
    """The message names the key and shows the value."""
    card = json.loads((assets / "embkeras.json").read_text())
    (assets / "embkeras.json").write_text(json.dumps(card | {key: value}))
    with pytest.raises(SavedModelError, match=f"{key} is {re.escape(repr(value))}"):
        TextEncoder(assets)


def test_other_vocabulary_is_refused(assets):
    """The fingerprint ties the vocabulary to the model."""
    ek.Vocabulary(["", "[UNK]", "other"]).save(assets / "vocabulary.json")
    with pytest.raises(SavedModelError, match="not the one the model was exported with"):
        TextEncoder(assets)


def test_card_of_an_other_model_is_refused(assets):
    """The card has another fingerprint than the vocabulary."""
    card = json.loads((assets / "embkeras.json").read_text())
    card |= {"vocabulary_fingerprint": "0" * 64}
    (assets / "embkeras.json").write_text(json.dumps(card | {"card_sha256": card_sha256(card)}))
    with pytest.raises(SavedModelError, match="not the one the model was exported with"):
        TextEncoder(assets)


def test_bad_arguments_are_refused(exported):
    """Not a path, a single string, and an invalid length."""
    with pytest.raises(ArgumentError, match=r"path must be a path.* Received: None"):
        TextEncoder(None)
    with pytest.raises(ArgumentError, match=r"texts must be .* Received: 'good'"):
        TextEncoder(exported).encode("good")
    with pytest.raises(ArgumentError, match=r"length must be .*Received: 0"):
        TextEncoder(exported).encode(TEXTS, length=0)


def test_rows_of_an_array_and_of_lists():
    """Any integers become int64, one array per text."""
    for ids in (np.array([[1, 2], [3, 4]], np.uint16), [[1, 2], (3, 4)], (np.array([1, 2]), [3, 4])):
        rows = id_rows(ids)
        assert [row.tolist() for row in rows] == [[1, 2], [3, 4]]
        assert {row.dtype for row in rows} == {np.dtype(np.int64)}
    assert [row.shape for row in id_rows([[], [1]])] == [(0,), (1,)]
    assert [row.shape for row in id_rows(np.zeros((2, 0)))] == [(0,), (0,)]
    assert id_rows([]) == id_rows(np.zeros((0, 3))) == []
