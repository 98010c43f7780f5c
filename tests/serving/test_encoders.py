"""Exports of models on a pre-trained encoder: texts, lengths, padding, the command line, and other runtimes."""

import json
import warnings

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.app import cli
from embkeras.encoders.heads import build_encoder_classifier
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.convert import convert_saved_model
from tests.encoders.folders import TEXTS, write_folder
from tests.processes import run_python
from tests.serving.servers import InTensorFlow, Model, rest_server

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

LONG = "dog " * 20  # 22 pieces; the model reads 16
ASKED = [*TEXTS, "", "[MASK] cat[SEP]", "CAT\u0301 \u4e2d", LONG]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A BERT of one narrow block with exact GELU, which converters to other runtimes don't know."""
    folder = tmp_path_factory.mktemp("bert") / "x"
    return ek.load_pretrained(write_folder(folder, num_hidden_layers=1, hidden_act="gelu"))


@pytest.fixture(scope="module")
def model(read):
    """A classifier of two classes."""
    keras.utils.set_random_seed(0)
    return build_encoder_classifier(read, 2, pool="mean")


@pytest.fixture(scope="module")
def export(read, model, tmp_path_factory):
    """The classifier, exported and checked, without warnings."""
    folder = tmp_path_factory.mktemp("served") / "mood"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ek.export_saved_model(model, folder, vocabulary=read.tokenizer, class_names=["bad", "good"])
    return ek.ExportedModel(folder, trusted=False)


@pytest.fixture(scope="module")
def strict(read, model, tmp_path_factory):
    """The same, which refuses texts that are too long."""
    folder = tmp_path_factory.mktemp("strict") / "mood"
    return ek.ExportedModel(
        ek.export_saved_model(model, folder, vocabulary=read.tokenizer, long_texts="error", check=False)
    )


def test_texts_are_scored_as_their_ids(read, model, export):
    """By the signature `text`, cut as TextEncoder cuts: the last piece of a long text is its separator."""
    ids = ek.TextEncoder(export.folder).encode(ASKED)
    np.testing.assert_array_equal(ids, read.tokenizer.encode_batch(ASKED, read.max_length))
    assert ids[-1, -1] == read.tokenizer.token_to_id["[SEP]"] and export.card["no_text_reason"] is None
    answers = export.ask("text", text=np.array([text.encode() for text in ASKED]))
    np.testing.assert_allclose(answers["scores"], np.asarray(model(ids)), atol=1e-6)
    pair = ek.TextEncoder(export.folder).encode(["cat[SEP]a cab"])
    np.testing.assert_array_equal(pair, read.tokenizer.encode_pairs(["cat"], ["a cab"]))
    table = export.predict(ASKED)
    assert list(table["label"]) == [["bad", "good"][best] for best in answers["scores"].argmax(1)]


def test_the_limit_is_known_and_kept(read, model, export, strict):
    """From the table of positions: more ids are cut inside their special pieces, or refused with the limit."""
    assert export.card["inputs"][0]["max_length"] == strict.card["inputs"][0]["max_length"] == 16 == read.max_length
    ids = read.tokenizer.encode(LONG)[None]
    wanted = np.asarray(model(read.tokenizer.encode_batch([LONG], 16)))
    for signature in ("serving_default", "serving_int32"):
        request = ids.astype(np.int32 if "32" in signature else np.int64)
        np.testing.assert_allclose(export.ask(signature, token_ids=request)["scores"], wanted, atol=1e-6)
    padded = np.pad(ids, ((0, 0), (2, 3)))
    np.testing.assert_allclose(export.scores(padded), wanted, atol=1e-6)
    rule = r"texts of up to 16 tokens\. Received 22 in text 0"
    for asked in (lambda: strict.ask("serving_default", token_ids=ids), lambda: strict.scores(ids)):
        with pytest.raises(SavedModelError, match=rule):
            asked()
    with pytest.raises(SavedModelError, match=rule):
        strict.ask("text", text=np.array([LONG.encode()]))
    for asked in (strict.predict, ek.TextEncoder(strict.folder).encode):
        with pytest.raises(ArgumentError, match=r"up to 16 tokens\. Received 22 in text 0"):
            asked([LONG])
    assert strict.scores(np.pad(ids[:, :16], ((0, 0), (0, 9)))).shape == (1, 2)


def test_prompts_leave_less_of_the_limit(read, tmp_path):
    """They take the first positions, so a text is cut before those that are left; the check asks as many."""
    read = read.with_prompts(3, start="cat")
    model = build_encoder_classifier(read, 2, pool="mean")
    export = ek.ExportedModel(ek.export_saved_model(model, tmp_path / "mood", vocabulary=read.tokenizer))
    assert export.card["inputs"][0]["max_length"] == 13 == read.max_length
    wanted = np.asarray(model(read.tokenizer.encode_batch([LONG], 13)))
    np.testing.assert_allclose(export.scores(read.tokenizer.encode(LONG)[None]), wanted, atol=1e-6)


def test_a_server_names_the_limit(read, strict):
    """Its refusal reaches the client; texts are refused before."""
    with (
        rest_server(Model("mood", {1: InTensorFlow(strict.folder)})) as url,
        ek.ServingClient(url, encoder=ek.TextEncoder(strict.folder)) as client,
    ):
        with pytest.raises(ek.errors.EmbkerasError, match="up to 16 tokens"):
            client.scores([read.tokenizer.encode(LONG)])
        with pytest.raises(ArgumentError, match=r"up to 16 tokens\. Received 22 in text 0"):
            client.predict([LONG])


def test_an_encoder_that_ignores_its_mask_is_refused(read, tmp_path):
    """The mean over padding too: scores depend on it."""
    ids = keras.Input((None,), dtype="int64", name="token_ids")
    pooled = keras.layers.GlobalAveragePooling1D()(read.vectors(ids)[0])
    wrong = keras.Model(ids, keras.layers.Dense(2, activation="softmax", name="scores")(pooled))
    with pytest.raises(SavedModelError, match="scores depend on padding"):
        ek.export_saved_model(wrong, tmp_path / "wrong", vocabulary=read.tokenizer)
    assert not (tmp_path / "wrong" / "1").exists()


def test_the_commands_take_texts(export, capsys):
    """`predict` labels them, and `check` passes."""
    assert cli.main(["predict", str(export.folder.parent), "cat dog", LONG, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [each["label"] for each in found] == list(export.predict(["cat dog", LONG])["label"])
    assert cli.main(["check", str(export.folder.parent), "--quiet"]) == 0


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
def test_other_pieces_are_made_from_the_assets(kind, tmp_path):
    """Byte-level BPE and unigram have no exact graph: TextEncoder makes the ids, without TensorFlow."""
    folder = write_folder(tmp_path / "x", kind, num_hidden_layers=1)
    _write_pieces(folder / "tokenizer.json", kind)
    read = ek.load_pretrained(folder)
    model = build_encoder_classifier(read, 2)
    if kind == "xlm-roberta":  # its own export would show the same once more
        ids = keras.Input((None,), dtype="int64")
        model = keras.Sequential([ids, model.get_layer("token_embedding"), keras.layers.GlobalAveragePooling1D()])
    version = ek.export_saved_model(model, tmp_path / "m", vocabulary=read.tokenizer, check=False)
    card = json.loads((version / "assets" / "embkeras.json").read_text("utf-8"))
    assert card["no_text_reason"].startswith(
        "the pieces of an encoder's tokenizer are made by TextEncoder, not in a graph"
    )
    assert card["inputs"][0]["max_length"] == (14 if kind == "roberta" else None)
    code = """
        import json, sys
        from embkeras import TextEncoder
        print(json.dumps(TextEncoder(sys.argv[1]).encode(json.load(sys.stdin), 14).tolist()))
        assert not {"tensorflow", "keras"} & set(sys.modules)
        """
    texts = [*TEXTS, "", "<s> cat</s>", "\u00e9\U0001f600 hi", LONG]
    done = run_python("-c", code, version, stdin=json.dumps(texts))
    wanted = read.tokenizer.encode_batch(texts, 14)
    assert json.loads(done.stdout) == wanted.tolist() and len(set(wanted.ravel())) > 6


def _write_pieces(path, kind):
    """A tokenizer.json of byte-level BPE, or of a unigram model, with 28 pieces."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [*"abcdefgixyz", "\u0120" if kind == "roberta" else "\u2581"]
    pieces = [*special, *letters, "ca", "cat", "do", "dog"]
    if kind == "roberta":
        merges = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g")]
        pieces += ["t", "o"]
        ids = {piece: place for place, piece in enumerate(pieces)}
        made = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges, unk_token="<unk>"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        scores = [(piece, -float(len(pieces) - len(piece))) for piece in pieces]
        made = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, 3, False))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.add_special_tokens(special)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.save(str(path))


@pytest.mark.parametrize(
    ("to", "needed"), [("onnx", ("tf2onnx", "onnxruntime")), ("litert", ("ai_edge_litert",))], ids=["onnx", "litert"]
)
def test_other_runtimes_have_the_same_scores(to, needed, export, tmp_path):
    """Within 1e-4 of the SavedModel, on the requests of the check."""
    for package in needed:
        pytest.importorskip(package, reason=f"{package} is not installed: the extra `{to}`")
    folder = convert_saved_model(export.folder, to, tmp_path / to)
    checked = json.loads((folder / "conversion.json").read_text("utf-8"))["checked"]
    assert checked["requests"] > 10 and checked["largest_difference"] <= 1e-4
