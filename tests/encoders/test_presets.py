"""Presets of keras-hub become the same encoders as Hugging Face's folders."""

import io
import json

import numpy as np
import pytest

import embkeras as ek
from embkeras.encoders import presets
from embkeras.errors import EncoderError, VocabularyError
from tests.encoders.folders import PIECES

hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
pytestmark = pytest.mark.skipif(
    tuple(map(int, hub.__version__.split(".")[:2])) < (0, 32),
    reason="tokenizers of older keras-hub need tensorflow-text",
)

_SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12, "max_sequence_length": 16}
_BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"catdog", "Ġ", "at", "cat", "Ġcat", "do", "dog", "Ġdog"]
_MERGES = ["a t", "c at", "Ġ cat", "d o", "do g", "Ġ dog"]
_WORDS = [*PIECES[:4], "[MASK]", *PIECES[4:], "caf", "##é"]
_ALBERT = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "pad_piece": "<pad>",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
    "user_defined_symbols": "[MASK]",
}
KINDS = ["bert", "distilbert", "roberta", "albert", "xlm-roberta"]
TEXTS = ["cat dog", "a CAFÉ cab, dog", "Dog cat"]


def sentence_pieces(**settings):
    """A model that SentencePiece trained on a few words."""
    pieces = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    made = io.BytesIO()
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 9),
        model_writer=made,
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    return made.getvalue()


def write_preset(folder, kind):
    """A preset with random weights: backbone and tokenizer."""
    models, rng = hub.models, np.random.default_rng(3)
    ids = {piece: id_ for id_, piece in enumerate(dict.fromkeys(_BYTES))}
    albert = {"num_groups": 2, "num_inner_repetitions": 2, "embedding_dim": 4, "num_layers": 4}
    make, tokenizer, more = {
        "bert": (models.BertBackbone, lambda: models.BertTokenizer(_WORDS, lowercase=True), {"num_segments": 3}),
        "distilbert": (models.DistilBertBackbone, lambda: models.DistilBertTokenizer(_WORDS, lowercase=False), {}),
        "roberta": (models.RobertaBackbone, lambda: models.RobertaTokenizer(ids, _MERGES), {"dropout": 0.3}),
        "albert": (models.AlbertBackbone, lambda: models.AlbertTokenizer(sentence_pieces(**_ALBERT)), albert),
        "xlm-roberta": (models.XLMRobertaBackbone, lambda: models.XLMRobertaTokenizer(sentence_pieces()), {}),
    }[kind]
    backbone, tokenizer = make(**{"vocabulary_size": 40, **_SIZES, **more}), tokenizer()
    backbone.set_weights([value + 0.3 * rng.normal(size=value.shape) for value in backbone.get_weights()])
    backbone.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    return backbone, tokenizer


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder, backbone and tokenizer by kind."""
    root = tmp_path_factory.mktemp("presets")
    return {kind: (root / kind, *write_preset(root / kind, kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_keras_hub(kind, written):
    """Pieces and vectors are those of keras-hub's tokenizer and model."""
    folder, backbone, tokenizer = written[kind]
    read = ek.load_pretrained(folder)
    assert (read.max_length, read.width, read.config["model_type"]) == (16, 8, kind)
    for text in TEXTS:
        pieces = np.asarray(tokenizer(text)).tolist()
        assert read.tokenizer.encode(text)[1:-1].tolist() == pieces
    ids = read.tokenizer.encode_batch(TEXTS)
    words = ids != read.tokenizer.padding_id
    feeds = {"token_ids": ids, "padding_mask": words, "segment_ids": np.zeros_like(ids)}
    wanted = backbone({name: feeds[name].astype("int32") for name in backbone.input})
    wanted = np.asarray(wanted["sequence_output"] if isinstance(wanted, dict) else wanted)
    model = read.model()
    np.testing.assert_allclose(np.asarray(model(ids))[words], wanted[words], atol=5e-6)
    assert model.get_layer("transformer_layer_0").dropout == {"roberta": 0.3, "albert": 0}.get(kind, 0.1)
    assert "segment_embedding" not in {layer.name for layer in model.layers} or kind != "distilbert"


def test_what_differs_is_found(written, monkeypatch):
    """`verify` refuses a model that doesn't return what keras-hub's returns."""
    ek.load_pretrained(written["distilbert"][0], verify=True)
    real = presets.preset_states
    monkeypatch.setattr("embkeras.encoders.reading.preset_states", lambda *given: real(*given) + 1e-3)
    with pytest.raises(EncoderError, match=r"1\.0e-03 from those of keras-hub"):
        ek.load_pretrained(written["distilbert"][0], verify=True)


@pytest.mark.parametrize(
    ("file", "content", "error", "named"),
    [
        ("config.json", {"registered_name": "keras_hub>GemmaBackbone"}, EncoderError, "'GemmaBackbone'"),
        ("config.json", {"registered_name": "keras_hub>BertBackbone"}, EncoderError, "keras-hub can't read"),
        ("tokenizer.json", {"config": {"split": False}}, EncoderError, "'split': False"),
        ("assets/tokenizer/vocabulary.txt", None, EncoderError, "no vocabulary.txt.*save_to_preset"),
        ("assets/tokenizer/vocabulary.txt", "cat", VocabularyError, "has no .UNK"),
    ],
)
def test_what_cannot_be_read(written, file, content, error, named):
    """Another kind of preset, damaged files, and a tokenizer with other settings."""
    folder = written["distilbert"][0]
    before = (folder / file).read_text()
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps(content))
    try:
        with pytest.raises(error, match=named):
            ek.load_pretrained(folder)
    finally:
        (folder / file).write_text(before)


def test_damaged_bytes(written, tmp_path):
    """Of a RoBERTa: pieces without the special ones, merges that are none."""
    assets = written["roberta"][0] / "assets" / "tokenizer"
    from embkeras.text.pieces import byte_pieces

    (tmp_path / "few.json").write_text('{"a": 0}')
    with pytest.raises(VocabularyError, match=r"few\.json.*<s>, <pad>"):
        byte_pieces(tmp_path / "few.json", assets / "merges.txt", False)
    (tmp_path / "merges.txt").write_text("a\n")
    with pytest.raises(VocabularyError, match=r"merges\.txt"):
        byte_pieces(assets / "vocabulary.json", tmp_path / "merges.txt", False)
