"""Ways to train little of an encoder, with few texts: accuracy, numbers trained, processor time, bytes saved; next to PEFT.

    python benchmarks/parameter_efficient.py FOLDER --torch /env/bin/python --hours 0.5   # cells; continues where it ended
    python benchmarks/parameter_efficient.py --write                                      # results/parameter_efficient.md

A cell is a number of texts, a seed, a set, a way and a package; its record goes to results/parameter_efficient.jsonl at once.
For each seed 30% of a set are the test, of which 400 texts are read, and 16, 32, 50, 200 or all of the others train (below 50
with embkeras alone). All ways get the same texts, batches of 16, AdamW with a warm-up of 10% and a linear decay, and as many
epochs for a number of texts; the last weights count. Rates are the usual ones of each way, and weren't searched. The processor
time is that of one thread, from a loaded model to the trained model, with what is traced.

"class means" computes the last layer from the mean of each class and has no rate; "head" trains it, "biases" all biases too
(Ben Zaken et al. 2022, BitFit), "adapters" bottlenecks of 16 in all blocks (Houlsby et al. 2019), "LoRA" rank 8 on query and
value of all blocks, "prompts" 8 virtual tokens that begin as the names of the classes; the head trains with each of them. "all"
trains everything. embkeras pools as the folder says (the mean, for MiniLM). PyTorch is transformers' classifier, which reads
the first token, with PEFT for LoRA and prompts; PEFT has no adapters of this kind. Its prompts begin as random vectors, and its
classifier reads the first of them.

What is saved: by `save_tuned`, and a new model with it must return the same scores to the bit. Of PEFT, its folder; LoRA's is
loaded by `load_tuned` too, and the difference of the scores is recorded.
"""

import argparse
import os
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from encoders import Arrays, Torch, predicted
from machine import machine_line
from rated_texts import texts_of
from records import Clock, Store, machines_of

BATCH, TEST, TESTED = 16, 0.3, 400
SETS, SEEDS, EPOCHS = ("tweets", "films"), range(100, 103), {16: 20, 32: 15, 50: 10, 200: 6, 0: 1}
# Way: peak of the learning rate, packages.
WAYS = {
    "class means": (1e-2, ("embkeras",)),  # the rate has no effect
    "head": (1e-2, ("embkeras", "PyTorch")),
    "biases": (2e-3, ("embkeras", "PyTorch")),
    "adapters": (2e-3, ("embkeras",)),
    "LoRA": (2e-3, ("embkeras", "PyTorch")),
    "prompts": (1e-2, ("embkeras", "PyTorch")),
    "all": (1e-4, ("embkeras", "PyTorch")),
}
KEY = ("size", "seed", "data", "way", "package")
RESULTS = Path(__file__).with_name("results")
LABELS = ("negative", "positive")
EXACT = 64  # test texts whose scores are compared


def packages_of(way: str, size: int) -> tuple[str, ...]:
    """Fewer than 50 texts are there for the ways that train little, and embkeras alone runs them."""
    return WAYS[way][1][: 1 if 0 < size < 50 else None]


def divided(tokenizer: Any, name: str, size: int, seed: int) -> Arrays:
    """Ids and labels of the training and test texts; at most 1% of the texts are cut."""
    data = texts_of(name)
    train, tested = parts(len(data.texts), size, seed)
    ids = tokenizer.encode_batch(data.texts)
    ids = tokenizer.encode_batch(data.texts, int(np.quantile((ids != tokenizer.padding_id).sum(axis=1), 0.99)))
    return {
        "ids": ids[train],
        "labels": data.labels[train],
        "test_ids": ids[tested],
        "test_labels": data.labels[tested],
    }


def parts(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the training and test texts."""
    tested, others = np.split(np.random.default_rng(seed).permutation(count), [round(TEST * count)])
    return others[: size or None], tested[:TESTED]


def larger_class(name: str, seed: int) -> float:
    """The accuracy of one answer to all test texts, in percent."""
    labels = texts_of(name).labels
    return float(100 * np.bincount(labels[parts(len(labels), 0, seed)[1]]).max() / TESTED)


def built(read: Any, way: str) -> Any:
    """A classifier in which only what belongs to a way trains."""
    import embkeras as ek

    model = ek.build_encoder_classifier(read, 2)
    if way in ("all", "biases"):
        return model
    for layer in model.layers:
        layer.trainable = layer.name in ("scores", "prompts")
    if way == "adapters":
        ek.enable_adapters(model, 16, "transformer_layer_*")
    elif way == "LoRA":
        ek.enable_lora(model, 8, ["transformer_layer_*/**/query", "transformer_layer_*/**/value"])
    return model


def ours(folder: Path, way: str, size: int, arrays: Arrays) -> tuple[Any, dict[str, Any]]:
    """Train with embkeras; returns a function from ids to scores, and what it took."""
    import keras

    import embkeras as ek
    from embkeras.encoders.base import named_weights
    from embkeras.training.schedule.actions import TrainVariables

    read = ek.load_pretrained(folder)
    if way == "prompts":
        read = read.with_prompts(8, start=LABELS)
    model = built(read, way)
    clock, epochs = Clock(1), EPOCHS[size]
    steps = epochs * -(-len(arrays["ids"]) // BATCH)
    optimizer = ek.RowWiseAdamW(ek.LinearDecay(WAYS[way][0], steps), weight_decay=0.01, decay_biases=False)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    callbacks = [ek.TrainabilitySchedule(ek.Phase(0, TrainVariables(["**/bias", "**/beta"]), train="scores"))]
    fit = {"head": ek.fit_on_frozen, "class means": ek.fit_class_means}.get(way, keras.Model.fit)
    fit(
        model,
        arrays["ids"],
        arrays["labels"],
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=callbacks if way == "biases" else [],
    )
    seconds = clock.lap()
    with tempfile.TemporaryDirectory() as out:
        path = Path(out, "tuned.safetensors")
        names = set(ek.save_tuned(model, path))
        trained = sum(int(np.prod(each.shape)) for name, each in named_weights(model).items() if name in names)
        size_of_file, again = path.stat().st_size, built(read, "all")
        ek.load_tuned(again, path)
        ids = arrays["test_ids"][:8]
        if not np.array_equal(again(ids), model(ids)):
            raise SystemExit(f"A model loaded by load_tuned has other scores: {way}.")
    return model.predict_on_batch, {"seconds": seconds, "trained": trained, "bytes": size_of_file}


def difference(folder: Path, saved: str, arrays: Arrays, logits: list[list[float]]) -> float:
    """How far the scores with a folder of PEFT are from its own."""
    import embkeras as ek

    model = ek.build_encoder_classifier(ek.load_pretrained(folder), 2, pool="pooler")
    ek.load_tuned(model, saved)
    exact = np.exp(np.array(logits) - np.max(logits, axis=1, keepdims=True))
    scores = np.asarray(model(arrays["test_ids"][:EXACT]))
    return float(np.abs(scores - exact / exact.sum(axis=1, keepdims=True)).max())


def theirs(
    torch: Torch, folder: Path, way: str, size: int, seed: int, arrays: Arrays
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train with transformers and PEFT; returns which test texts are right, and what it took."""
    with tempfile.TemporaryDirectory() as out:
        asked = {"rate": WAYS[way][0], "epochs": EPOCHS[size], "batch": BATCH, "everywhere": True, "prompts": 8}
        answer = torch.ask(way, seed, arrays, **asked, save=out, logits=EXACT)
        found = {name: answer[name] for name in ("seconds", "trained", "bytes")}
        if way == "LoRA":
            found["difference"] = difference(folder, out, arrays, answer["logits"])
    return np.array(answer["predicted"]) == arrays["test_labels"], found


def run(options: argparse.Namespace) -> None:
    """Train what is missing: for each number of texts, seed and set, way by way, the packages next to each other."""
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
    store, clock = Store(RESULTS / "parameter_efficient.jsonl", KEY), Clock(options.hours)
    tokenizer = ek.load_pretrained(options.folder).tokenizer
    cells = [
        (size, seed, data, way, package)
        for size in options.sizes
        for seed in options.seeds
        for data in options.data
        for way in WAYS
        for package in packages_of(way, size)
    ]
    for cell in cells:
        size, seed, data, way, package = cell
        if cell in store or (package == "PyTorch" and torch is None):
            continue
        if clock.is_over:
            print("The time is up; the same command continues.")
            return
        arrays = divided(tokenizer, data, size, seed)
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        if package == "PyTorch":
            right, found = theirs(torch, options.folder, way, size, seed, arrays)
        else:
            scores, found = ours(options.folder, way, size, arrays)
            right = predicted(scores, arrays["test_ids"]) == arrays["test_labels"]
        record = dict(zip(KEY, cell, strict=True)) | {"tests": len(right), "accuracy": round(right.mean(), 5)}
        store.add(record | found | {"machine": torch.machine if package == "PyTorch" else machine})
        print(f"{cell}: {right.mean():.3f}, {found}", flush=True)


def table() -> str:
    """Means over sets and seeds."""
    records = Store(RESULTS / "parameter_efficient.jsonl", KEY).records
    by_cell = defaultdict(list)
    for each in records:
        by_cell[each["size"], each["way"], each["package"], each["data"]].append(each)
    lines = [machines_of(records).replace("\n", "  \n"), ""]
    for size in EPOCHS:
        lines += [f"{size or 'All'} texts (in brackets: seeds)", ""]
        if not any(each["size"] == size for each in records):
            lines += ["Not run yet.", ""]
            continue
        heads = [*(f"{data}, %" for data in SETS), "numbers trained", "processor s", "bytes saved"]
        lines += [f"| way | package | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
        seeds = {
            data: {each["seed"] for each in records if (each["size"], each["data"]) == (size, data)} for data in SETS
        }
        guessed = [
            f"{np.mean([larger_class(data, seed) for seed in seeds[data]]):.1f}" if seeds[data] else "" for data in SETS
        ]
        lines.append(f"| one answer to all, the larger class | | {' | '.join(guessed)} | | | |")
        for way in WAYS:
            for package in packages_of(way, size):
                cells = [by_cell[size, way, package, data] for data in SETS]
                every = [each for cell in cells for each in cell]
                shown = [
                    f"{100 * np.mean([each['accuracy'] for each in cell]):.1f} ({len(cell)})" if cell else ""
                    for cell in cells
                ]
                if every:
                    shown += [
                        f"{every[0]['trained']:,}",
                        f"{np.mean([each['seconds'] for each in every]):.1f}",
                        f"{every[0]['bytes']:,}",
                    ]
                lines.append(f"| {way} | {package} | {' | '.join(shown) or 'not run yet'} |")
        lines.append("")
    known = [each["difference"] for each in records if "difference" in each]
    if known:
        lines.append(
            f"LoRA folders of PEFT, loaded by load_tuned: scores within {max(known):.1e} of PEFT's, {len(known)} folders."
        )
    wanted = [
        (size, way, package, data)
        for size in EPOCHS
        for way in WAYS
        for package in packages_of(way, size)
        for data in SETS
    ]
    missing = {
        size or "all": sum(key[0] == size and len(by_cell[key]) < len(SEEDS) for key in wanted) for size in EPOCHS
    }
    lines += [
        "",
        f"Of {len(wanted)} figures of accuracy, these have fewer than {len(SEEDS)} seeds, by texts: {missing}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run cells, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a BERT: config.json, model.safetensors, tokenizer")
    parser.add_argument("--torch", metavar="PYTHON", help="Python of an environment with torch, transformers and peft")
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--sizes", nargs="+", type=int, choices=tuple(EPOCHS), default=tuple(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=tuple(SEEDS))
    parser.add_argument("--hours", type=float, default=6, help="begin no cell after so many hours")
    parser.add_argument("--write", action="store_true", help="write the table of what there is")
    options = parser.parse_args()
    if options.write:
        (RESULTS / "parameter_efficient.md").write_text(table(), "utf-8")
    elif options.folder is None:
        parser.error("give the folder of an encoder, or --write")
    else:
        run(options)


if __name__ == "__main__":
    main()
