"""Training on an encoder: what each strategy trains, the whole command on a tiny BERT, and both models side by side."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest

import embkeras as ek
from embkeras.app import cli, racing
from embkeras.app.output import Output
from embkeras.app.settings import ENCODER_STRATEGIES, EncoderSettings, Settings
from embkeras.errors import ArgumentError, EmbkerasWarning, OutputError
from embkeras.experiments import race
from embkeras.experiments.advice import Advice
from embkeras.experiments.runs import Run
from embkeras.text.labelled import LabelledTexts, Split
from tests.encoders.folders import write_folder
from tests.experiments.test_advice import records

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

from embkeras.app import encoders

TEXTS = tuple(f"{'cat' if number % 2 else 'dog'} {'abcdefghij'[: number % 8]}" for number in range(24))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny BERTs of two blocks and of one, with a README that names its licence; and labelled texts."""
    folder = tmp_path_factory.mktemp("encoder")
    write_folder(folder / "bert")
    small = write_folder(folder / "small", num_hidden_layers=1)
    (small / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# BERT\n")
    rows = [f"{'up' if number % 2 else 'down'},{text}\n" for number, text in enumerate(TEXTS * 2)]
    (folder / "texts.csv").write_text("stars,review\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def prepared(folder):
    """Texts as the ids of the tiny BERT, which leave room for prompts."""
    read = ek.load_pretrained(folder / "bert")
    part = read.tokenizer.encode_batch(TEXTS, 8), np.arange(len(TEXTS)) % 2
    return encoders.Prepared(read, "bert", part, part, part, ("dog", "cat"))


@pytest.mark.parametrize(
    ("strategy", "trains"),
    [
        ("frozen", {"scores"}),
        ("class means", {"scores"}),
        ("prompts", {"scores", "prompts"}),
        ("top block", {"scores", "transformer_layer_1"}),
        ("LoRA", {"scores", "transformer_layer_1"}),
        (
            "fine-tuned",
            {
                *("token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm"),
                *("transformer_layer_0", "transformer_layer_1", "scores"),
            },
        ),
    ],
)
def test_what_a_strategy_trains(prepared, strategy, trains):
    """The layers, and under LoRA none of the kernels below it; smaller rates further down where all of them train."""
    settings = EncoderSettings(epochs=2)
    model = encoders._builder(prepared, settings)(encoders._strategies(prepared.read, settings)[strategy])
    assert {variable.path.split("/")[0] for variable in model.trainable_variables} == trains
    kernels = [each.path for each in model.trainable_variables if each.path.endswith("dense/kernel")]
    assert bool(kernels) == (strategy in ("top block", "fine-tuned"))
    rates = model.optimizer.get_config()["learning_rate_multipliers"]
    assert bool(rates) == (strategy == "fine-tuned")
    if rates:
        assert rates["transformer_layer_1"] == 1 and rates["token_embedding"] == pytest.approx(0.64)


@pytest.mark.parametrize(
    ("names", "start", "said"),
    [
        (("dog", "cat"), ["dog", "cat"], None),
        (("?", "cat"), ["cat"], r"the pieces of \['cat'\].*class names \['\?'\] the tokenizer of bert"),
        (("?", "!"), None, r"pieces drawn at random.*class names \['\?', '!'\] the tokenizer of bert"),
    ],
)
def test_what_prompts_begin_as(prepared, names, start, said):
    """The class names that the tokenizer knows; a warning names the others, once for all trainings."""
    prepared = replace(prepared, class_names=names)
    build = encoders._builder(prepared, EncoderSettings())
    strategy = encoders._strategies(prepared.read, EncoderSettings())["prompts"]
    with pytest.warns(EmbkerasWarning, match=said) if said else contextlib.nullcontext():
        model = build(strategy)
    wanted = ek.build_encoder_classifier(strategy.encoder(prepared.read, start=start), 2)
    for net in (model, build(strategy)):
        found, expected = (each.get_layer("prompts").get_weights() for each in (net, wanted))
        np.testing.assert_array_equal(found, expected)


def test_prompts_that_leave_too_few_tokens(prepared):
    """The length that they leave is named."""
    ids = np.ones((24, 9), np.int64)
    longer = replace(prepared, train=(ids, prepared.train[1]))
    strategy = encoders._strategies(prepared.read, EncoderSettings())["prompts"]
    with pytest.raises(ArgumentError, match=r"leave 8 tokens.*--max-length 8.*Received: texts of 9"):
        encoders._builder(longer, EncoderSettings())(strategy)


def test_train_on_an_encoder(folder, tmp_path, monkeypatch, capsys):
    """The whole command: report and figures, a model card that names the encoder, and an export that answers texts."""
    monkeypatch.setattr(encoders.results, "show_answers", lambda *_: None)  # tested with word vectors
    unchecked = partial(ek.export_saved_model, check=False)  # the check is tested with the exports of encoders
    monkeypatch.setattr(encoders, "export_saved_model", unchecked)
    out = tmp_path / "out"
    line = f"train {folder / 'texts.csv'} --text review --label stars --encoder {folder / 'small'} --out {out} --json"
    assert (
        cli.main([*line.split(), *["--strategy", "frozen", "--epochs", "2", "--max-length", "6", "--dropout", "0"]])
        == 0
    )
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (
        "small, bert of 1 block, width 8, 28 pieces" in printed.err
        and "6 tokens per text (the longest has 10" in printed.err
    )
    assert "run once over 32 rows" in printed.err
    assert "warning" not in printed.err
    assert (found["encoder"], found["strategy"], found["epochs"]) == ("small", "frozen", 2)
    assert found["trained"] == 18 < found["parameters"] and 0 <= found["test"]["accuracy"] <= 1
    card = (out / "1" / "README.md").read_text()
    assert "| name | small |" in card and "| licence | apache-2.0 |" in card and "| size | 1 block, width 8 |" in card
    assert f"18 of {found['parameters']:,} parameters trained, 2 epochs" in card
    assert cli.main(["predict", str(out), "cat abc", "--json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["label"] in ("up", "down")


@pytest.fixture(scope="module")
def compared(folder, tmp_path_factory):
    """The line of `compare` and its folder. One run is trained, and all others get the same record, for the time it takes."""
    out, real, known = tmp_path_factory.mktemp("compared") / "out", race.train_once, []

    def once(job):
        known.append(known[0] if known else real(job))
        return replace(known[0], strategy=job.strategy.name, seed=job.seed)

    line = (
        f"compare {folder / 'texts.csv'} --text review --label stars --encoder {folder / 'small'} --out {out} --seeds 2"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "train_once", once)
        assert cli.main([*line.split(), "--epochs", "1", "--quiet"]) == 0
    return line.split(), out


def test_compare_on_an_encoder(compared, folder, monkeypatch, capsys):
    """All strategies race, as there are few labels; the folder has all, and is continued."""
    monkeypatch.setattr(race, "train_once", lambda job: pytest.fail(f"{job} was trained"))
    line, out = compared
    assert cli.main([*line, "--epochs", "1", "--json"]) == 0
    printed = capsys.readouterr()
    assert "Racing 6 strategies" in printed.err
    assert "Round 1: class means, frozen, prompts, top block, LoRA, fine-tuned" in printed.err
    assert "To train it: embkeras train, with the same --encoder, and --strategy" in printed.err
    found = json.loads((out / "comparison.json").read_text())
    assert found["advice"] == json.loads(printed.out)["advice"] and found["rerun"]["encoder"].startswith("small ")
    assert found["rerun"]["settings"]["epochs"] == 1 and "coverage_types" not in found["profile"]["parts"]["train"]
    assert (out / "report.html").exists() and not list(out.glob("kept*"))


def test_words_that_training_does_not_have(prepared):
    """Of an encoder, words count and not pieces: it spells new words in pieces that it has read."""
    train, other, test = (
        LabelledTexts(texts, np.arange(len(texts)) % 2, ("a", "b"))
        for texts in (TEXTS, TEXTS, [*TEXTS[:22], "A cat, abc", "dog"])
    )
    contest = encoders.contest(prepared, Split(train, other, test), EncoderSettings())
    assert contest.data.unseen.tolist() == [False] * 22 + [True, False]
    assert [each.learning_rate for each in contest.strategies] == [None] * 6


def test_runs_of_another_encoder_are_refused(compared, folder, tmp_path, capsys):
    """Runs on another encoder are told by the contents of its files, and so are runs with other settings."""
    line, _ = compared
    other = shutil.copytree(folder / "small", tmp_path / "small")
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    changed = [str(other) if part == str(folder / "small") else part for part in line]
    for arguments in ([*changed, "--epochs", "1"], [*line, "--epochs", "2"]):
        assert cli.main([*arguments, "--quiet"]) == 2
        assert "line 1 belongs to other settings or encoder. Give another --out" in capsys.readouterr().err


def test_auto_on_an_encoder(folder, tmp_path, monkeypatch, capsys):
    """It trains what a race recommends; the card says why."""
    advice = Advice((*records("LoRA", [0.9, 0.91], [0.9] * 2), *records("frozen", [0.5, 0.51], [0.5] * 2)))
    trained = []
    monkeypatch.setattr(racing, "race_strategies", lambda *_, **__: advice)
    monkeypatch.setattr(encoders, "run", lambda *given, **how: trained.append((given[2].strategy, how["choice"])))
    line = f"train {folder / 'texts.csv'} --text review --label stars --encoder {folder / 'small'} --strategy auto"
    assert cli.main([*line.split(), "--out", str(tmp_path / "out")]) == 0
    assert trained == [("LoRA", advice.text)]
    assert "\nStrategy: LoRA\n" in capsys.readouterr().out


def test_batches_are_as_long_as_their_longest_text():
    """Columns of padding are left out, at either side; labels keep their texts."""
    ids = np.array([[5, 6, 0, 0], [5, 0, 0, 0], [7, 8, 9, 0]])
    batches = list(encoders._batches(ids, np.arange(3), 2, 0, shuffle=False))
    assert [batch.numpy().tolist() for batch, _ in batches] == [[[5, 6], [5, 0]], [[7, 8, 9]]]
    assert [labels.numpy().tolist() for _, labels in batches] == [[0, 1], [2]]
    (front,) = encoders._batches(ids[:, ::-1], np.arange(3), 3, 0, shuffle=True)
    assert sorted(front[0].numpy().tolist()) == [[0, 0, 5], [0, 6, 5], [9, 8, 7]]


def test_fit_trains_all_layers_on_such_batches():
    """Where nothing is frozen, `fit` gets them; its History comes back."""
    ids = keras.Input((None,), dtype="int64")
    vectors = keras.layers.Embedding(4, 2, mask_zero=True, name="token_embedding")(ids)
    pooled = keras.layers.GlobalAveragePooling1D()(vectors)
    model = keras.Model(ids, keras.layers.Dense(2, activation="softmax")(pooled))
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    part = np.array([[1, 2, 0], [3, 0, 0]]), np.array([0, 1])
    before = model.get_weights()[0]
    more = {"batch_size": 2, "validation_data": part, "epochs": 2, "verbose": 0}
    history = encoders._Fit(0, "")(model, x=part[0], y=part[1], **more)
    assert len(history.history["val_loss"]) == 2 and (model.get_weights()[0] != before)[1:].all()


def test_what_is_compared(prepared):
    """All strategies, each with the epochs and the rate that it needs unless the settings say them."""
    epochs = {name: each.epochs for name, each in encoders._strategies(prepared.read, EncoderSettings()).items()}
    few = {"class means": 1, "prompts": 10}
    assert epochs == {"frozen": 30, "top block": 4, "LoRA": 4, "fine-tuned": 3, **few}
    given = encoders._strategies(prepared.read, EncoderSettings(epochs=2, learning_rate=0.5)).values()
    assert {(each.epochs, each.learning_rate) for each in given} == {(2, 0.5)}
    assert set(epochs) == set(ENCODER_STRATEGIES.values())


def test_no_room_for_what_frozen_blocks_put_out(monkeypatch, prepared):
    """The temporary folder is named, and what to do."""

    def full(*_, **__):
        raise OutputError("no room")

    monkeypatch.setattr(encoders, "fit_on_frozen", full)
    settings = EncoderSettings()
    model = encoders._builder(prepared, settings)(encoders._strategies(prepared.read, settings)["frozen"])
    more = {"batch_size": 2, "validation_data": None, "epochs": 1}
    with pytest.raises(OutputError, match=r"TMPDIR.*no room"):
        encoders._Fit(0, "kept")(model, x=prepared.train[0], y=prepared.train[1], **more)


def test_the_rate_falls_to_the_end_of_each_training(prepared):
    """Of the texts that train: with folds, or on a share, they are others than those that the model was built for."""
    settings = EncoderSettings(epochs=2, batch_size=8)
    model = encoders._builder(prepared, settings)(encoders._without_rates(prepared.read, settings)["fine-tuned"])
    found = encoders._falling(model.optimizer, 10).get_config()
    assert found["learning_rate"]["config"] == {"learning_rate": 1e-4, "steps": 10, "warmup": 0.1}
    assert found["learning_rate_multipliers"] and encoders._falling(model.optimizer, 6) is model.optimizer
    plain = keras.optimizers.SGD(0.5)
    assert encoders._falling(plain, 6) is plain


def test_side_by_side(prepared, monkeypatch, tmp_path, capsys):
    """Both are trained and exported; scores, time and bytes are in one table, and the figures of each in the result."""
    runs = [
        Run("x", 0, np.array([0, 1]), np.array(each), seconds, {}) for each, seconds in (([0, 0], 60.0), ([0, 1], 90.0))
    ]

    def trained(number):
        def run(*arguments, compare, **more):
            folder = tmp_path / str(number)
            (folder / "variables").mkdir(parents=True)
            (folder / "variables" / "data").write_bytes(b"0" * 2_000_000 * (number + 1))
            arguments[3].result["test"] = number
            assert not compare
            return runs[number], folder

        return run

    monkeypatch.setattr(encoders.names, "read_card", lambda _: {"tables": {"t": {"rows": 1000, "width": 100}}})
    monkeypatch.setattr(encoders.pipeline, "run", trained(0))
    monkeypatch.setattr(encoders, "run", trained(1))
    monkeypatch.setattr(encoders, "prepare", lambda *_: prepared)
    output, how = Output("demo"), EncoderSettings(strategy="frozen")
    encoders.run_beside(None, None, Settings(), ("f", "MiniLM", how), (tmp_path, tmp_path), output, examples=())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["MiniLM,", "frozen", "100.0", "100.0", "1.5", "4.0", "3.7"] in rows
    assert [row[-5:] for row in rows if row[:1] == ["word"]] == [["50.0", "33.3", "1.0", "2.0", "1.7"]]
    assert (output.result["word_vectors"], output.result["encoder"]) == ({"test": 0}, {"test": 1})
    assert [row["bytes"] for row in output.result["side_by_side"]] == [2e6, 4e6]


def test_the_demo_hands_both_over(folder, tmp_path, monkeypatch):
    """Texts and vectors, the encoder's folder with its name and settings, and a model folder for each."""
    asked = []
    monkeypatch.setattr("embkeras.app.commands._start_tensorflow", lambda output=None: None)
    monkeypatch.setattr("embkeras.app.material.glove_paths", lambda: ("m", "w"))
    monkeypatch.setattr(encoders.preparation, "rated_tweets", lambda say, quick: "tweets")
    monkeypatch.setattr(encoders.preparation, "prepare", lambda *_, words_file: "prepared")
    monkeypatch.setattr(encoders, "run_beside", lambda *arguments, **_: asked.extend(arguments))
    line = f"demo --encoder {folder / 'bert'} --strategy top --epochs 2 --architecture mean --out {tmp_path / 'out'}"
    assert cli.main(line.split()) == 0
    prepared, parts, words, encoder, out, _ = asked
    assert (prepared, parts, words.architecture, words.chosen, words.epochs) == (
        "prepared",
        "tweets",
        "mean",
        "shared map",
        2,
    )
    assert encoder == (folder / "bert", "bert", EncoderSettings(strategy="top block", epochs=2))
    assert out == (tmp_path / "out", tmp_path / "out-encoder")


@pytest.mark.parametrize(
    ("length", "why"),
    [
        (1, "must be at least 3: 2 pieces of each text are special"),
        (2, "must be at least 3: 2 pieces of each text are special"),
        (17, "must be at most 16, the tokens that the encoder in"),
    ],
)
def test_a_length_without_room_for_a_text(folder, tmp_path, monkeypatch, capsys, length, why):
    """Refused before TensorFlow starts: an encoder's texts have special pieces, and it has a table of positions."""
    monkeypatch.setattr("embkeras.app.commands._start_tensorflow", lambda output=None: pytest.fail("it was started"))
    line = f"train {folder / 'texts.csv'} --encoder {folder / 'bert'} --max-length {length} --out {tmp_path / 'out'}"
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert f": --max-length {why}" in said and said.endswith(f"Received: {length}.\n")


@pytest.mark.parametrize("text", ["# BERT\nlicense: mit\n", "---\nlanguage: en\n---\n", ""])
def test_a_readme_that_names_no_licence(tmp_path, text):
    """Nothing is invented; nor where there is no README."""
    assert encoders._licence(tmp_path) == ""
    (tmp_path / "README.md").write_text(text)
    assert encoders._licence(tmp_path) == ""


def test_missing_package_is_said_before_tensorflow_starts(folder, monkeypatch, tmp_path, capsys):
    """With what to install."""
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    monkeypatch.setattr("embkeras.app.commands._start_tensorflow", lambda output=None: pytest.fail("it was started"))
    line = (
        f"train {folder / 'texts.csv'} --text review --label stars --encoder {folder / 'bert'} --out {tmp_path / 'out'}"
    )
    assert cli.main(line.split()) == 2
    assert 'pip install "embkeras[contextual]"' in capsys.readouterr().err
