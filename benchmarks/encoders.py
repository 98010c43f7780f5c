"""A pre-trained encoder: accuracy and processor time of each way to train it, next to keras-hub and PyTorch; bytes served.

    python benchmarks/encoders.py FOLDER --bytes                  # results/encoders_served.md, without training
    python benchmarks/encoders.py FOLDER --torch /env/bin/python  # all cells; continues where a run was killed
    python benchmarks/encoders.py FOLDER --write                  # results/encoders.md

A cell is a set of texts, a seed, a way and a package; its record goes to results/encoders.jsonl at once. For each seed 30% of
a set are the test and 1,000 of the others train: the same division as in recipe.py, whose accuracies with 1,000 texts stand
beside. All packages get the same ids of one length (at most 1% of the texts are cut), batches of 32 and as many epochs, and
the last weights count. AdamW has a warm-up of 10% and a linear decay, and no decay on biases and normalisations. The
processor time is that of one thread, from ids and a loaded model to the trained model, with what is traced and kept.

The ways: "head" trains the last layer, "top" the uppermost block too; "LoRA" has rank 8 on attention and feed-forward of the
upper half, "biases" trains those of the upper half; "all" trains everything, with embkeras at rates that fall by 0.8 a block.
embkeras uses `fit_on_frozen` wherever something is frozen. keras-hub is its own BertTextClassifier with `fit`, whose
`enable_lora` is on query and value of all blocks. PyTorch is transformers' classifier, with PEFT for LoRA; it runs in an
environment of its own (encoders_torch.py), between the other two. embkeras pools as the folder says (the mean, for
MiniLM), the others by their own heads, on the first token.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from machine import machine_line
from rated_texts import texts_of
from records import Clock, Store, machines_of

BATCH, SIZE, TEST = 32, 1000, 0.3
SETS, SEEDS = ("tweets", "films", "editorials"), range(100, 103)
# Way: peak of the learning rate, epochs, packages.
WAYS = {
    "head": (3e-3, 8, ("embkeras", "keras-hub", "PyTorch")),
    "top": (1e-4, 4, ("embkeras", "keras-hub", "PyTorch")),
    "LoRA": (1e-3, 4, ("embkeras", "keras-hub", "PyTorch")),
    "biases": (1e-3, 4, ("embkeras", "PyTorch")),
    "all": (1e-4, 3, ("embkeras", "keras-hub", "PyTorch")),
}
KEY = ("data", "seed", "way", "package")
RESULTS = Path(__file__).with_name("results")
RECIPES = {"stock": "GloVe 50d, stock Keras", "map+rows": "GloVe 50d, shared map"}
Arrays = dict[str, np.ndarray]


def divided(tokenizer: Any, name: str, seed: int) -> Arrays:
    """Ids and labels of the training and test texts, as recipe.py divides them."""
    data = texts_of(name)
    ids = tokenizer.encode_batch(data.texts)
    lengths = (ids != tokenizer.padding_id).sum(axis=1)
    ids = tokenizer.encode_batch(data.texts, int(np.quantile(lengths, 0.99)))
    tested, others = np.split(np.random.default_rng(seed).permutation(len(ids)), [round(TEST * len(ids))])
    train = others[:SIZE]
    return {
        "ids": ids[train],
        "labels": data.labels[train],
        "test_ids": ids[tested],
        "test_labels": data.labels[tested],
    }


def ours(folder: Path, way: str, arrays: Arrays) -> Any:
    """Train with embkeras; returns a function from ids to scores, and the processor time."""
    import embkeras as ek
    from embkeras.training.schedule.actions import TrainVariables

    rate, epochs, _ = WAYS[way]
    read = ek.load_pretrained(folder)
    model = ek.build_encoder_classifier(read, int(arrays["labels"].max()) + 1)
    clock = Clock(1)
    upper = read.blocks[len(read.blocks) // 2 :]
    multipliers, callbacks = None, []
    if way == "all":
        multipliers = ek.layerwise_rates(model, 0.8, read.layer_groups)
    elif way == "biases":
        addresses = [f"{block}/**/bias" for block in upper]
        callbacks = [ek.TrainabilitySchedule([ek.Phase(0, TrainVariables(addresses), train="scores")])]
    else:
        for layer in model.layers:
            layer.trainable = layer.name == "scores" or (way == "top" and layer.name == read.blocks[-1])
        if way == "LoRA":
            ek.enable_lora(model, 8, [f"{block}/**" for block in upper])
    steps = epochs * -(-len(arrays["ids"]) // BATCH)
    optimizer = ek.RowWiseAdamW(
        ek.LinearDecay(rate, steps), weight_decay=0.01, decay_biases=False, learning_rate_multipliers=multipliers
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    fit = model.fit if way == "all" else lambda *data, **more: ek.fit_on_frozen(model, *data, **more)
    fit(arrays["ids"], arrays["labels"], batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks)
    return model.predict_on_batch, clock.lap()


def keras_hub(folder: Path, way: str, arrays: Arrays) -> Any:
    """The same with keras-hub's own classifier and `fit`."""
    import keras
    import keras_hub

    import embkeras as ek

    rate, epochs, _ = WAYS[way]
    model = keras_hub.models.BertTextClassifier.from_preset(
        str(folder), num_classes=int(arrays["labels"].max()) + 1, preprocessor=None
    )
    clock = Clock(1)
    if way == "LoRA":
        model.backbone.enable_lora(8)
    elif way != "all":
        for layer in model.backbone.layers:
            layer.trainable = way == "top" and layer.name.endswith(f"_{model.backbone.num_layers - 1}")
    steps = epochs * -(-len(arrays["ids"]) // BATCH)
    optimizer = keras.optimizers.AdamW(ek.LinearDecay(rate, steps), weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(_named(arrays["ids"]), arrays["labels"], batch_size=BATCH, epochs=epochs, verbose=0)
    return lambda ids: model.predict_on_batch(_named(ids)), clock.lap()


def _named(ids: np.ndarray) -> Arrays:
    ids = ids.astype("int32")
    return {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": (ids != 0).astype("int32")}


class Torch:
    """PyTorch in another environment, asked through its standard input."""

    def __init__(self, python: str, folder: Path):
        script = Path(__file__).with_name("encoders_torch.py")
        command = [python, str(script), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.machine = self._answer()["machine"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The process with PyTorch has ended; its message stands above.")
        return json.loads(line)

    def ask(self, way: str, seed: int, arrays: Arrays, **settings: Any) -> dict[str, Any]:
        """Train in the other process; returns its answer."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "arrays.npz")
            np.savez(path, **arrays)
            self._process.stdin.write(json.dumps({"arrays": str(path), "way": way, "seed": seed, **settings}) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def __call__(self, way: str, seed: int, arrays: Arrays) -> tuple[np.ndarray, float]:
        """Which test texts it classified correctly, and the processor time of the training."""
        rate, epochs, _ = WAYS[way]
        answer = self.ask(way, seed, arrays, rate=rate, epochs=epochs, batch=BATCH)
        return np.array(answer["predicted"]) == arrays["test_labels"], answer["seconds"]


def predicted(scores: Any, ids: np.ndarray) -> np.ndarray:
    """The classes of texts, in batches of similar length without needless padding."""
    lengths = (ids != 0).sum(axis=1)
    found = np.zeros(len(ids), int)
    for rows in np.array_split(np.argsort(lengths, kind="stable"), -(-len(ids) // 64)):
        found[rows] = np.asarray(scores(ids[rows, : lengths[rows].max()])).argmax(axis=1)
    return found


def run(options: argparse.Namespace) -> None:
    """Train what is missing: for each set and seed, way by way, the packages next to each other."""
    import keras
    import tensorflow as tf

    import embkeras as ek

    for threads in (
        tf.config.threading.set_intra_op_parallelism_threads,
        tf.config.threading.set_inter_op_parallelism_threads,
    ):
        threads(1)
    tf.get_logger().setLevel("ERROR")
    warnings.simplefilter("ignore")  # fit_on_frozen names the layers whose dropout is left out
    machine = machine_line("tensorflow", "keras", "keras-hub")
    print(machine, flush=True)
    torch = Torch(options.torch, options.folder) if options.torch else None
    store, clock = Store(RESULTS / "encoders.jsonl", KEY), Clock(options.hours)
    tokenizer = ek.load_pretrained(options.folder).tokenizer
    for seed in options.seeds:
        for data in options.data:
            arrays = divided(tokenizer, data, seed)
            for way, (_, _, packages) in WAYS.items():
                for package in packages:
                    if (data, seed, way, package) in store or (package == "PyTorch" and torch is None):
                        continue
                    if clock.is_over:
                        print("The time is up; the same command continues.")
                        return
                    keras.utils.clear_session()
                    keras.utils.set_random_seed(seed)
                    if package == "PyTorch":
                        right, seconds = torch(way, seed, arrays)
                    else:
                        train = ours if package == "embkeras" else keras_hub
                        scores, seconds = train(options.folder, way, arrays)
                        right = predicted(scores, arrays["test_ids"]) == arrays["test_labels"]
                    record = {"data": data, "seed": seed, "way": way, "package": package}
                    record |= {
                        "tests": len(right),
                        "tokens": arrays["ids"].shape[1],
                        "accuracy": round(right.mean(), 5),
                    }
                    store.add(
                        record | {"seconds": seconds, "machine": torch.machine if package == "PyTorch" else machine}
                    )
                    print(f"{data}, seed {seed}, {way}, {package}: {right.mean():.3f}, {seconds:.1f} s", flush=True)


def table() -> str:
    """Means over the seeds of each set, and what the recipe for word vectors reached on the same texts."""
    records = Store(RESULTS / "encoders.jsonl", KEY).records
    by_cell = defaultdict(list)
    for each in records:
        by_cell[each["data"], each["way"], each["package"]].append(each)
    sets = [name for name in SETS if any(name == data for data, _, _ in by_cell)]
    lines = [machines_of(records).replace("\n", "  \n"), ""]
    for heading, value in (
        ("Accuracy on the test texts, %", lambda cells: f"{100 * np.mean([each['accuracy'] for each in cells]):.1f}"),
        ("Processor seconds of the training", lambda cells: f"{np.mean([each['seconds'] for each in cells]):.0f}"),
    ):
        lines += [f"{heading} (in brackets: seeds)", "", f"| way | package | {' | '.join(sets)} |"]
        lines.append("|---|---|" + "---|" * len(sets))
        for way, (_, _, packages) in WAYS.items():
            for package in packages:
                cells = [by_cell[data, way, package] for data in sets]
                lines.append(
                    f"| {way} | {package} | "
                    + " | ".join(f"{value(each)} ({len(each)})" if each else "" for each in cells)
                    + " |"
                )
        if "Accuracy" in heading:
            lines += _recipe(sets, {each["seed"] for each in records})
        lines.append("")
    return "\n".join(lines)


def _recipe(sets: list[str], seeds: set[int]) -> list[str]:
    """Rows of results/recipe.jsonl: the cnn with 1,000 texts and the same seeds."""
    found = defaultdict(list)
    for line in (RESULTS / "recipe.jsonl").read_text("utf-8").splitlines():
        each = json.loads(line)
        if each["size"] == SIZE and each["architecture"] == "cnn" and each["seed"] in seeds:
            found[each["data"], each["way"]].append(each["accuracy"])
    return [
        f"| {name}, CNN | embkeras | "
        + " | ".join(f"{100 * np.mean(found[data, way]):.1f} ({len(found[data, way])})" for data in sets)
        + " |"
        for way, name in RECIPES.items()
    ]


def exactness(read: Any, ids: np.ndarray) -> float:
    """The largest difference between the Keras model's vectors and those of NumPy, where no padding is."""
    from embkeras.encoders.families import architecture_of
    from embkeras.encoders.reference import hidden_states
    from embkeras.encoders.tensors import opened

    of = architecture_of(read.config, "config.json")
    with opened(read.folder, of.family) as tensors:
        wanted = hidden_states(tensors, of, ids)
    return float(np.abs(read.model()(ids) - wanted)[ids != read.tokenizer.padding_id].max())


def served(folder: Path) -> str:
    """How exactly an encoder is read, the pass of frozen layers next to `predict`, and the bytes of exports.

    Exports are whole, and trimmed to the pieces of the training tweets.
    """
    import embkeras as ek
    from embkeras.app.preparation import rated_tweets

    read = ek.load_pretrained(folder)
    texts = list(rated_tweets(print, quick=False).train.texts)
    ids = read.tokenizer.encode_batch(texts, 64)
    lines = [
        machine_line("tensorflow", "keras", "keras-hub"),
        "",
        f"- {read}: vectors of 32 tweets within {exactness(read, ids[:32]):.1e} of a forward pass in NumPy.",
        f"- {pass_of(read, ids[:SIZE])}",
    ]
    small = read.trimmed(texts)
    models = {
        "whole": (read, ek.build_encoder_classifier(read, 2)),
        "trimmed": (small, ek.build_encoder_classifier(small, 2)),
    }
    for one, other in zip(models["trimmed"][1].layers, models["whole"][1].layers, strict=True):
        if other.name != "token_embedding":
            one.set_weights(other.get_weights())
    wanted = np.asarray(models["whole"][1](ids[:256]))
    file = (folder / "model.safetensors").stat().st_size
    for name, (encoder, model) in models.items():
        asked = encoder.tokenizer.encode_batch(texts[:256], 64)
        for dtype in ("float32", "int8"):
            with tempfile.TemporaryDirectory() as out:
                version = ek.export_saved_model(model, out, vocabulary=encoder.tokenizer, dtype=dtype)
                scores = ek.ExportedModel(out).ask("serving_default", token_ids=asked)["scores"]
                size = sum(each.stat().st_size for each in (version / "variables").iterdir())
                lines.append(
                    f"- {name}, {len(encoder.tokenizer):,} pieces, table as {dtype}: variables of {size / 1e6:.1f} MB, "
                    f"{size / file:.2f} of the encoder's file; scores within {np.abs(scores - wanted).max():.1e}."
                )
    return "\n".join(lines) + "\n"


def pass_of(read: Any, ids: np.ndarray) -> str:
    """Seconds in which the frozen layers run over texts, and in which `predict` of the same layers does, in turns."""
    import keras

    import embkeras as ek

    warnings.simplefilter("ignore")
    kept, forward = [], []
    for _ in range(3):
        keras.utils.clear_session()
        model = ek.build_encoder_classifier(read, 2)
        for layer in model.layers:
            layer.trainable = layer.name == "scores"
        model.compile("adam", "sparse_categorical_crossentropy")
        history = ek.fit_on_frozen(model, ids, np.arange(len(ids)) % 2, epochs=1, verbose=0)
        kept.append(history.frozen[0]["seconds"])
        trunk = keras.Model(model.input, model.get_layer("pool").output)
        began = time.monotonic()
        trunk.predict(ids, 32, verbose=0)
        forward.append(time.monotonic() - began)
    one, other = np.median(kept), np.median(forward)
    return (
        f"the pass of `fit_on_frozen` over {len(ids):,} texts of {ids.shape[1]} ids: {one:.1f} s, {one / other:.2f}x the "
        f"{other:.1f} s of `predict` (medians of 3, both with their trace)."
    )


def main() -> None:
    """Run, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="config.json, model.safetensors and a tokenizer, of a BERT")
    parser.add_argument(
        "--bytes",
        action="store_true",
        help="only how exactly it is read, the pass of frozen layers, and the bytes served",
    )
    parser.add_argument(
        "--torch", metavar="PYTHON", help="Python with torch, transformers and peft; without, those cells stay out"
    )
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--hours", type=float, default=12, help="no cell begins later (12)")
    parser.add_argument("--write", action="store_true", help="write results/encoders.md from the records")
    options = parser.parse_args()
    if options.bytes:
        text = served(options.folder)
        print(text)
        heading = (
            f"# An encoder, read and served\n\nMade by `benchmarks/encoders.py {options.folder.name} --bytes`.\n\n"
        )
        (RESULTS / "encoders_served.md").write_text(heading + text, "utf-8")
    elif options.write:
        text = table()
        print(text)
        about = __doc__.split("\n\n", 2)[2].strip()
        (RESULTS / "encoders.md").write_text(
            f"# A pre-trained encoder\n\nMade by `benchmarks/encoders.py`.\n\n{about}\n\n{text}", "utf-8"
        )
    else:
        run(options)


if __name__ == "__main__":
    main()
