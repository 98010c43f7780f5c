"""Version folders, paths and cards."""

import copy
import io
import itertools
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.check import check_saved_model
from embkeras.serving.names import LARGEST_VERSION, card_sha256, export_folder, parsed_card, versions

VOCABULARY = ek.Vocabulary.from_texts(["good day"])


@pytest.fixture(scope="module")
def model():
    """A small classifier."""
    aligned = ek.AlignedMatrix(np.random.default_rng(0).normal(size=(len(VOCABULARY), 3)), VOCABULARY)
    return ek.build_classifier(aligned, 2, architecture="mean")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """A model's folder with version 1."""
    path = tmp_path_factory.mktemp("export") / "model"
    return ek.export_saved_model(model, path, vocabulary=VOCABULARY, check=False).parent


def test_versions_are_those_that_servers_read(tmp_path):
    """Numbers that fit int64, with or without leading zeros; files count too, as a server counts them."""
    for name in ("1", "0003", str(2**63 - 1), str(2**63), "9" * 200, "-4", "5.0", "²", "x", ".writing-6"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    found = versions(tmp_path)
    assert {number: entry.name for number, entry in found.items()} == {
        1: "1", 3: "0003", 7: "7", LARGEST_VERSION: str(LARGEST_VERSION)
    }  # fmt: skip
    (tmp_path / str(LARGEST_VERSION)).rmdir()
    assert export_folder(tmp_path).name == "0003"  # not the file
    assert versions(tmp_path / "missing") == versions(tmp_path / "7") == {}


def test_one_number_twice_is_refused(exported, tmp_path):
    """Which one a server takes would depend on the order of the listing."""
    shutil.copytree(exported, tmp_path / "m")
    shutil.copytree(exported / "1", tmp_path / "m" / "01")
    for read in (ek.ExportedModel, ek.TextEncoder, check_saved_model):
        with pytest.raises(SavedModelError, match=r"two entries for version 1: '01' and '1'"):
            read(tmp_path / "m")


def test_a_folder_with_leading_zeros_is_found(exported, model, tmp_path):
    """Everything that reads exports finds it; the next version is 2, and 1 exists."""
    path = tmp_path / "m"
    shutil.copytree(exported / "1", path / "0001")
    assert ek.ExportedModel(path).folder.name == "0001" and ek.TextEncoder(path).model_name == "m"
    with pytest.raises(SavedModelError, match=r"Version 1 of .* already exists.*'0001'"):
        ek.export_saved_model(model, path, vocabulary=VOCABULARY, version=1)
    assert ek.export_saved_model(model, path, vocabulary=VOCABULARY, check=False).name == "2"
    replaced = ek.export_saved_model(model, path, vocabulary=VOCABULARY, version=1, overwrite=True, check=False)
    assert replaced.name == "0001" and sorted(each.name for each in path.iterdir()) == ["0001", "2"]


def test_a_file_named_like_a_version(model, tmp_path):
    """Only its own number is taken."""
    (tmp_path / "1").write_text("in the way")
    with pytest.raises(SavedModelError, match=r"Version 1 of .* already exists"):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, version=1)
    assert ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, check=False).name == "2"


@pytest.mark.parametrize("version", [2**63, 10**30, True, np.True_, 0, "1", 1.0, None])
def test_versions_that_no_server_reads(model, tmp_path, version):
    """Servers parse an int64; after the largest there is no next version."""
    (tmp_path / str(LARGEST_VERSION)).mkdir()
    error, message = ArgumentError, rf"version must be an integer from 1 to {2**63 - 1}\. Received: "
    if version is None:
        error, message = SavedModelError, f"no free version above {2**63 - 1}"
    with pytest.raises(error, match=message):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, version=version)


BAD_PATHS = [None, b"model", io.BytesIO(), 3, "", "a\0b", "x/" * 2500, "x" * 5000, "x" * 300, ["m"]]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: f"{path!r:.12}")
def test_what_is_no_path(model, path):
    """None, bytes, open files, and names that are too long: an ArgumentError wherever a path is taken."""
    for take in (
        ek.ExportedModel,
        ek.TextEncoder,
        check_saved_model,
        lambda path: ek.export_saved_model(model, path, vocabulary=VOCABULARY),
    ):
        with pytest.raises(ArgumentError, match=r"path must be a path.* Received: "):
            take(path)
    if path is not None:
        with pytest.raises(ArgumentError, match=r"(encoder must be a TextEncoder|path must be a path).* Received: "):
            ek.ServingClient("http://h", model="m", encoder=path)


def test_the_folder_above_has_a_name(model, tmp_path, monkeypatch):
    """ ".." is no name of a model."""
    (tmp_path / "mood" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mood" / "inner")
    folder = ek.export_saved_model(model, "..", vocabulary=VOCABULARY, check=False)
    assert ek.ExportedModel(folder).card["name"] == "mood"


@pytest.mark.parametrize("names", [b"ab", {"a", "b"}, {"a": 1, "b": 2}, 5, [1, 2], ["a", "a"], [True, False]])
def test_what_names_no_classes(model, tmp_path, names):
    """Bytes, sets (they have no order) and numbers."""
    with pytest.raises(ArgumentError, match=r"class_names must be .* Received: "):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, class_names=names)


def test_class_names_of_a_generator(model, tmp_path):
    """A generator is read once."""
    names = (name for name in ("no", "yes"))
    folder = ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, class_names=names, check=False)
    assert ek.ExportedModel(folder).class_names == ("no", "yes")


@pytest.mark.parametrize("flag", ["overwrite", "check", "with_config"])
def test_flags_are_bools(model, tmp_path, flag):
    """ "no" would be true."""
    with pytest.raises(ArgumentError, match=rf"{flag} must be True or False\. Received: 'no'"):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY, **{flag: "no"})


@pytest.mark.parametrize("ids", [[[True]], [[True, 2]], [(2, False)], np.array([[True]]), [np.array([True])]])
def test_bools_are_no_ids(exported, ids):
    """NumPy turns bools among integers into integers."""
    export = ek.ExportedModel(exported)
    client = ek.ServingClient("http://h", model="m")
    for ask in (export.scores, client.scores):
        with pytest.raises(ArgumentError, match=r"token_ids must be integers .* Received: .*bool"):
            ask(ids)


@pytest.mark.parametrize("ids", [[[1], [1, 2]], np.array([[2**63]], np.uint64), [["a"]], [[[1], [1, 2]]]])
def test_what_is_no_batch(exported, ids):
    """Rows of different lengths, and integers that int64 doesn't hold."""
    with pytest.raises(ArgumentError, match=r"token_ids must be integers .* Received: "):
        ek.ExportedModel(exported).scores(ids)


@pytest.mark.parametrize("texts", ["good", b"good", 5, None, ["good", 5], ["good", None], [b"good"]])
def test_what_is_no_text(exported, texts):
    """In this process, and before anything is sent to a server."""
    for ask in (ek.ExportedModel(exported).predict, ek.ServingClient("http://h", encoder=exported).predict):
        with pytest.raises(ArgumentError, match=r"texts must be .* Received: "):
            ask(texts)


def test_model_that_can_not_be_traced(tmp_path):
    """Errors of Keras and TensorFlow become a SavedModelError with the reason."""

    class _Hidden(keras.Model):  # Keras names it "__hidden", which is no name in a graph
        def __init__(self):
            super().__init__()
            self.table, self.out = keras.layers.Embedding(len(VOCABULARY), 3), keras.layers.Dense(2)

        def call(self, ids):
            return self.out(keras.ops.mean(self.table(ids), axis=1))

    model = _Hidden()
    model(np.array([[1, 2]]))
    with pytest.raises(SavedModelError, match=r"can't be traced as a TensorFlow graph: ValueError: '__hidden'"):
        ek.export_saved_model(model, tmp_path, vocabulary=VOCABULARY)
    later = keras.layers.Dense(1, name="later")
    later.build((None, 1))
    assert later.kernel.path == "later/kernel"  # not inside the scope "__hidden", which Keras left open


CARD = json.loads(
    (Path(__file__).parents[2] / "saved_models" / "golden" / "1" / "assets" / "embkeras.json").read_text()
)


def places(value, path=()):
    """Where each value of a card is."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(path, value):
    """The card with another value in one place."""
    card = copy.deepcopy(CARD)
    inner = card
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return card


def test_a_change_anywhere_in_a_card_is_found():
    """The card has the SHA-256 of its contents."""
    assert parsed_card(json.dumps(CARD), "it", SavedModelError) == CARD
    values = (None, True, -1, 7, 2**70, 0.5, float("nan"), float("inf"), "x", [], {}, [[]], {"a": 1})
    for path, value in itertools.product(places(CARD), values):
        card = changed(path, value)
        if json.dumps(card) != json.dumps(CARD):
            with pytest.raises(SavedModelError, match="it has a card that is damaged"):
                parsed_card(json.dumps(card), "it", SavedModelError)


@pytest.mark.parametrize("value", [2**63, -(2**70), float("nan"), float("-inf")])
def test_numbers_that_no_tensor_holds_are_refused(value):
    """Also in a card that a server signed."""
    card = changed(("padding_id",), value)
    card["card_sha256"] = card_sha256(card)
    with pytest.raises(SavedModelError, match=r"is beyond int64|is no number of JSON"):
        parsed_card(json.dumps(card), "it", SavedModelError)
