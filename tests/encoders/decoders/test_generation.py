"""Decoders continue texts, with kept keys and values as without."""

import numpy as np
import pytest

from embkeras.encoders.adapters import enable_adapters, use_adapters
from embkeras.encoders.decoders.generation import _chooser, best, continue_rows, generate, likely
from embkeras.encoders.decoders.reading import load_decoder
from embkeras.encoders.lora import enable_lora, merge_lora
from embkeras.errors import ArgumentError
from tests.encoders.decoders.tiny_llama import write_folder
from tests.variants import THOROUGH

pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

PROMPTS = ["a cat", "dog dog 12 cats", "x"]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The tiny decoder."""
    return load_decoder(write_folder(tmp_path_factory.mktemp("decoder") / "tiny"))


@pytest.fixture(scope="module")
def model(read):
    """Its model."""
    return read.model()


def test_greedy_tokens_are_those_of_transformers(read, model, monkeypatch):
    """The best tokens are those that another implementation took."""
    ids = [5, 260, 100, 7, 42, 2, 264, 9]
    wanted = [134, 122, 44, 44, 164, 203, 212, 184]
    monkeypatch.setattr(read, "encode", lambda _: ids)
    text = generate(model, read, ["any"], max_new_tokens=8, stop_ids=[])
    assert text == [read.tokenizer.tokenizer.text_of(wanted)]


@pytest.mark.parametrize("draws", [{}, {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "seed": 3}])
def test_cache_and_batch_change_no_token(read, model, draws):
    """With and without kept keys and values, a batch of prompts of several lengths has the same continuations."""
    cached, whole = (
        generate(model, read, PROMPTS, max_new_tokens=7, cached=cached, **draws) for cached in (True, False)
    )
    assert cached == whole
    assert len(set(cached)) == 3
    if not draws:
        assert cached == [generate(model, read, [prompt], max_new_tokens=7)[0] for prompt in PROMPTS]


def test_seed_repeats_draws(read, model):
    """Draws are those of the seed."""
    first, again, other = (
        generate(model, read, PROMPTS, max_new_tokens=6, temperature=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    cold = generate(model, read, PROMPTS, max_new_tokens=6, temperature=1e-6, seed=1)
    assert cold == generate(model, read, PROMPTS, max_new_tokens=6)


@THOROUGH
def test_lora_is_in_the_next_call(read):
    """A model that changed since its last text continues with what it is now."""
    model = read.model()
    plain = generate(model, read, PROMPTS, max_new_tokens=4)
    enable_lora(model, 2, "transformer_layer_1")
    for variable in model.trainable_variables:
        if "lora" in variable.path:
            variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    changed = generate(model, read, PROMPTS, max_new_tokens=4)
    assert plain != changed
    merge_lora(model)
    assert generate(model, read, PROMPTS, max_new_tokens=4, cached=False) == changed


def test_prompts_stand_in_front_of_every_text(read, model):
    """Soft prompts that begin as a text are like that text in front: of single rows, packed ones, and with kept keys."""
    prompted = read.with_prompts(2, start="dog")  # its piece twice
    made, twice = prompted.model(packed=True), read.encode("dog") * 2
    texts = [read.encode(prompt) for prompt in PROMPTS[:2]]
    packed = np.array([[*texts[0], *texts[1], 265]])
    segments = np.array([[1] * len(texts[0]) + [2] * len(texts[1]) + [0]], "int32")
    scores = np.asarray(made([packed, segments]))[0]
    wanted = [np.asarray(model(np.array([[*twice, *text]])))[0, 2:] for text in texts]
    np.testing.assert_allclose(scores[:-1], np.concatenate(wanted), atol=1e-4)
    assert prompted.max_length == read.max_length - 2
    with pytest.raises(ArgumentError, match=r"has prompts already.*2 prompts"):
        prompted.with_prompts(1)
    behind = generate(model, read, ["dogdog" + prompt for prompt in PROMPTS], max_new_tokens=5)
    assert generate(made, prompted, PROMPTS, max_new_tokens=5) == behind


def test_stop_ids_end_each_text_by_itself():
    """A text ends before its stop id; the others go on, and never see what follows there."""
    script = iter([[1, 5], [9, 6], [3, 9]])
    seen = []

    def step(ids):
        seen.append(ids.tolist())
        scores = np.zeros((2, 12))
        scores[range(2), next(script)] = 1
        return scores

    assert continue_rows(step, [[4], [4, 7]], 11, 5, [9], best) == [[1], [5, 6]]
    assert seen == [[[11, 4], [4, 7]], [[11, 4, 1], [4, 7, 5]], [[11, 4, 1, 11], [4, 7, 5, 6]]]


def test_draws_are_from_the_likely_tokens():
    """top_k and top_p keep the best tokens, whose probabilities are softmax's among them."""
    scores = np.log(np.array([[0.1, 0.5, 0.15, 0.25]]))
    np.testing.assert_allclose(likely(scores, None, None), [[0.1, 0.5, 0.15, 0.25]])
    np.testing.assert_allclose(likely(scores, 2, None), [[0, 2 / 3, 0, 1 / 3]])
    np.testing.assert_allclose(likely(scores, None, 0.7), [[0, 2 / 3, 0, 1 / 3]])
    np.testing.assert_allclose(likely(scores, 3, 0.1), [[0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"prompts": "text"}, "text"),
        ({"prompts": []}, r"at least one token.*\[\]"),
        ({"prompts": ["a", ""]}, "at least one token"),
        ({"max_new_tokens": 0}, "max_new_tokens.*0"),
        ({"max_new_tokens": 60}, "64 tokens.*a prompt of 8 with max_new_tokens=60"),
        ({"temperature": -1}, "temperature.*-1"),
        ({"top_k": 3}, "top_k.*temperature.*3"),
        ({"seed": 3}, "seed.*temperature.*3"),
        ({"temperature": 1, "top_p": 1.5}, "top_p.*1.5"),
        ({"temperature": 1, "top_k": 0}, "top_k.*0"),
        ({"stop_ids": [999]}, "stop_ids.*999"),
        ({"model": None}, "load_decoder.*None"),
        ({"read": "tiny"}, "load_decoder.*tiny"),
        ({"read": "prompted"}, "266 rows and 2 prompts.*266 rows and 0 prompts"),
        ({"cached": "yes"}, "cached.*yes"),
    ],
)
def test_wrong_arguments_are_refused(read, model, arguments, received):
    """Each is named with what was received."""
    given = {"model": model, "read": read, "prompts": ["abcdefgh"], "max_new_tokens": 2} | arguments
    if given["read"] == "prompted":
        given["read"] = read.with_prompts(2)
    with pytest.raises(ArgumentError, match=received):
        generate(**given)


def test_the_adapters_in_use_count(read):
    """A set of adapters that is switched, or off, is so in the next call, whatever an earlier call traced."""
    model = read.model()
    for seed, name in enumerate(("first", "second")):
        enable_adapters(model, 2, "transformer_layer_0/feedforward_output", name=name)
        for weight in model.trainable_variables:
            if f"/{name}/" in weight.path:
                weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    continued = []
    for name in ("first", "second", None):
        use_adapters(model, name)
        continued.append(generate(model, read, PROMPTS, max_new_tokens=4))
        assert continued[-1] == generate(model, read, PROMPTS, max_new_tokens=4, cached=False)
    assert len(set(map(tuple, continued))) == 3


def test_no_temperature_draws_the_padding_or_fails(read, model):
    """Near 0 the best tokens are drawn; a temperature that makes all tokens alike never draws the padding."""
    best_ones = generate(model, read, PROMPTS, max_new_tokens=4)
    for temperature in (1e-40, 5e-324):
        assert generate(model, read, PROMPTS, max_new_tokens=4, temperature=temperature) == best_ones
    draw = _chooser(1e30, None, None, 0)
    drawn = [draw(np.array([[0, 1, -30000.0]]))[0] for _ in range(40)]
    assert set(drawn) == {0, 1}


@pytest.mark.parametrize("draws", [{}, {"temperature": 1.0}])
def test_scores_that_are_not_finite_are_refused(read, draws):
    """A model that diverged in training would continue with token 0 for ever."""
    model = read.model()
    norm = model.get_layer("output_layer_norm")
    norm.set_weights([np.full(norm.scale.shape, np.nan)])
    with pytest.raises(ArgumentError, match="NaN or infinity behind prompt 0"):
        generate(model, read, PROMPTS, max_new_tokens=2, **draws)
