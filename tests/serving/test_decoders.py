"""Exports of decoders continue texts in a loop, without Python's TensorFlow."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from embkeras.encoders.adapters import enable_adapters, use_adapters
from embkeras.encoders.decoders.generation import best, continue_rows, generate
from embkeras.encoders.decoders.reading import load_decoder
from embkeras.encoders.lora import enable_lora
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving import decoders
from embkeras.serving.decoders import export_decoder
from embkeras.serving.packed_matrices import pack, unpack
from tests.encoders.decoders.tiny_llama import write_folder
from tests.serving.c_api import Session
from tests.variants import THOROUGH

pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

PROMPTS = ["a cat", "dog dog 12 cats"]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The tiny decoder."""
    return load_decoder(write_folder(tmp_path_factory.mktemp("decoder") / "tiny"))


@pytest.fixture(scope="module")
def model(read):
    """Its model, with LoRA that changes its scores."""
    made = read.model()
    enable_lora(made, 2, "transformer_layer_1")
    for variable in made.trainable_variables:
        if "lora" in variable.path:
            variable.assign(0.5 * np.random.default_rng(0).normal(size=variable.shape))
    return made


def served(folder):
    """A step that asks the export in the C library, and keeps its cache."""
    session, card = Session(folder), json.loads((folder / "assets.extra" / "decoder.json").read_text("utf-8"))
    cache = None

    def step(ids):
        nonlocal cache
        cache = np.zeros((len(ids), *card["cache"]), np.float32) if cache is None else cache
        answer = session.run("serving_default", {"token_ids": ids, "cache": cache})
        cache = answer["cache"]
        assert cache.shape[4] == ids.shape[1]
        return answer["scores"]

    return step, card


def continued(read, model, folder):
    """PROMPTS continued by a loop around the export in the C library, whose last scores are those of the whole model."""
    step, card = served(folder)
    assert card["max_length"] == 64
    rows = [read.encode(prompt) for prompt in PROMPTS]
    asked = []

    def recorded(ids):
        asked.append((ids, step(ids)))
        return asked[-1][1]

    made = continue_rows(recorded, rows, card["padding_id"], 7, [], best)
    ids, scores = asked[-1]
    assert len(asked) == 7
    np.testing.assert_allclose(scores, np.asarray(model(ids))[:, -1, :-1], atol=2e-3)
    return [read.tokenizer.tokenizer.text_of(ids) for ids in made]


def test_c_library_continues_texts_as_generate_does(read, tmp_path):
    """A loop around an export with packed weights, and its cache, has the tokens of `generate` with the same weights."""
    model = read.model()
    for block in read.blocks:
        for kernel in [weight for weight in model.get_layer(block).weights if weight.name == "kernel"]:
            packed = pack(np.asarray(kernel).T, 4, "kernel")
            kernel.assign(np.asarray(unpack(packed, kernel.shape[0])).T)
    table = model.get_layer("token_embedding")
    table.assign_table(np.asarray(unpack(pack(table.matrix(), 8, "table"), 16)))
    folder = export_decoder(model, read, tmp_path / "tiny", dtype="int4", check=False)
    texts = continued(read, model, folder)
    assert texts == generate(model, read, PROMPTS, max_new_tokens=7, stop_ids=[])
    assert len(set(texts)) == 2


@THOROUGH
def test_lora_is_in_the_export(read, model, tmp_path):
    """LoRA is written into the stored kernels, and the check passes."""
    folder = export_decoder(model, read, tmp_path / "tiny")
    assert continued(read, model, folder) == generate(model, read, PROMPTS, max_new_tokens=7, stop_ids=[])


@THOROUGH
def test_packed_weights_are_small_on_disk_and_close(read, model, tmp_path):
    """4 bits take less than 8 and these less than float32; the scores of 8 bits are near those of the model."""
    sizes, scores = {}, {}
    ids = np.array([[5, 260, 100, 7]])
    for dtype in ("int8", "int4"):
        folder = export_decoder(model, read, tmp_path / dtype, dtype=dtype)
        sizes[dtype] = sum(file.stat().st_size for file in (folder / "variables").glob("*.data*"))
        scores[dtype] = served(folder)[0](ids)[0]
    numbers = sum(int(np.prod(variable.shape)) for variable in read.model().variables)
    assert sizes["int4"] < sizes["int8"] < 0.8 * 4 * numbers  # a row of 16 numbers is filled to a group of 32
    wanted = np.asarray(model(ids))[0, -1, :-1]
    error = {dtype: np.abs(each - wanted).max() / np.abs(wanted).max() for dtype, each in scores.items()}
    assert 0 < error["int8"] < 0.05
    assert error["int8"] < error["int4"] < 0.6


@pytest.mark.parametrize("used", ["first", None])
def test_the_adapters_in_use_are_in_the_export(read, tmp_path, used):
    """An export of either kind has the scores of the adapters in use, or of the base; other adapters aren't stored."""
    model = read.model()
    for name in ("first", "second"):
        enable_adapters(model, 3, "transformer_layer_0/feedforward_output", name=name)
        for weight in model.trainable_variables:
            if f"/{name}/" in weight.path:
                weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    use_adapters(model, used)
    ids = np.array([[5, 260, 100, 7]])
    wanted = np.asarray(model(ids))[0, -1, :-1]
    for dtype, close in (("float32", 1e-5), ("int8", 0.05)):
        folder = export_decoder(model, read, tmp_path / dtype, dtype=dtype)
        error = np.abs(served(folder)[0](ids)[0] - wanted).max() / np.abs(wanted).max()
        assert error < close
        shapes = [shape for _, shape in tf.train.list_variables(str(folder / "variables" / "variables"))]
        assert shapes.count([16, 3]) == (used is not None)


def test_check_refuses_other_scores(read, model, tmp_path, monkeypatch):
    """An export that returns something else gets no name."""
    answers = iter([np.zeros((2, 2, 265)), np.ones((2, 2, 265))])
    monkeypatch.setattr(decoders, "_two_steps", lambda *_: next(answers))
    monkeypatch.setattr(
        decoders.tf.saved_model, "load", lambda _: SimpleNamespace(signatures={"serving_default": None})
    )
    monkeypatch.setattr(decoders.tf.saved_model, "save", lambda _, folder, **__: Path(folder).mkdir())
    with pytest.raises(SavedModelError, match=r"wrong/1.*differ by 1\.0e\+00"):
        export_decoder(model, read, tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "1").exists()


def test_versions_and_wrong_arguments(read, model, tmp_path, monkeypatch):
    """An existing version stays, and what can't be exported is named."""
    (tmp_path / "taken" / "3").mkdir(parents=True)
    with pytest.raises(SavedModelError, match=r"Version 3 of .*taken.* exists"):
        export_decoder(model, read, tmp_path / "taken", version=3)
    for arguments, received in (
        ({"model": None}, "None"),
        ({"read": "tiny"}, "tiny"),
        ({"read": read.with_prompts(1)}, "1 prompts.*0 prompts"),
        ({"dtype": "int2"}, "int2"),
        ({"version": 0}, "version.*0"),
        ({"check": 1}, "check.*1"),
    ):
        with pytest.raises(ArgumentError, match=received):
            export_decoder(**{"model": model, "read": read, "path": tmp_path / "wrong"} | arguments)
    assert not (tmp_path / "wrong").exists()
