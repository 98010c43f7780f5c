"""The cost of serving an export: bytes on the wire, latency, memory, cold start, throughput, and smaller tables.

Stock is Keras' `model.export` of the same model. Each export is loaded in its own process: by TensorFlow in Python, and
by the TensorFlow C API without Python, the runtime inside TensorFlow Serving. "loaded" is the memory of the process after
the first answer minus its memory before loading (`RssAnon` + `RssShmem`, the smallest of the rounds); "cold" is the time
from the start of the process to that answer, including loading the libraries. The gRPC server is the one in the tests,
on the C API; its clients are threads of another process, with their requests prepared beforehand. With "bucketing" each
client sorts its texts by length before cutting them into batches, as `ServingClient` does.

    python -m pip install -e ".[demo,serving]"
    python benchmarks/serving.py            # --quick: a tenth of the table, less of everything
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from machine import machine_line

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the C API and the server of the tests

TIME, WIDTH = 50, 300
FEW = 100  # rows: a table that weighs nothing
CLIENTS, BATCH = 8, 32
DTYPES = ("float32", "float16", "int8")
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


# Bytes on the wire


def wire(size: int) -> None:
    """Size of ids compared with their vectors, in each form that a client can send."""
    rows: list[list[str]] = []
    true_of: dict[str, list[str]] = {}
    for count in (1, 8, 64):
        weights = _weights(count, size)
        floats = {name: weight for name, weight in weights.items() if "floats" in name}
        rows.append([str(count), "the floats themselves", "", *(f"{weight:,}" for weight in floats.values())])
        for name, weight in weights.items():
            if name in floats:
                continue
            ratios = {other: floats[other] / weight for other in floats}
            rows.append([str(count), name, f"{weight:,}", *(f"{ratio:.0f}x" for ratio in ratios.values())])
            for other, ratio in ratios.items():
                if 270 <= ratio <= 330:
                    true_of.setdefault(f"{name} {other}", []).append(str(count))
    title = f"Bytes of a request, n x {TIME} tokens, {WIDTH} d, ids below {size:,}"
    print_table(title, ["n", "sent as", "bytes", *floats], rows)
    told = "; ".join(f"{what} (n = {', '.join(counts)})" for what, counts in true_of.items())
    print(f"\nThe often-told 300x (270 to 330) is true of: {told or 'none of these'}.")


def _weights(count: int, size: int) -> dict[str, int]:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    ids = rng.integers(2, size, (count, TIME))
    vectors = rng.standard_normal((count, TIME, WIDTH), np.float32)
    shape = tf.TensorShape(ids.shape).as_proto()
    proto = type(tf.make_tensor_proto(0))
    packed = proto(dtype=tf.int64.as_datatype_enum, tensor_shape=shape, int64_val=ids.ravel())
    body = lambda values: len(json.dumps({"instances": values}).encode())  # noqa: E731
    return {
        "JSON ids": body(ids.tolist()),
        "protobuf ids, int64 content": tf.make_tensor_proto(ids).ByteSize(),
        "protobuf ids, int32 content": tf.make_tensor_proto(ids.astype(np.int32)).ByteSize(),
        "protobuf ids, int64 as varints": packed.ByteSize(),
        "over JSON floats": body(vectors.tolist()),
        "over JSON floats, 5 digits": body(np.round(vectors.astype(np.float64), 5).tolist()),
        "over protobuf floats": tf.make_tensor_proto(vectors).ByteSize(),
    }


# Disk, memory, latency, cold start


def classifier(rows: int, width: int, architecture: str):
    """A model and its vocabulary."""
    import embkeras as ek

    table = np.random.default_rng(0).standard_normal((rows, width), np.float32)
    vocabulary = ek.Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(rows - 2))])
    return ek.build_classifier(ek.AlignedMatrix(table, vocabulary), 2, architecture=architecture), vocabulary


def write_exports(folder: Path, rows: int) -> dict[str, tuple[Path, int]]:
    """Name -> folder of a version, and the rows of its table; the last one shows what TensorFlow needs for any model."""
    import embkeras as ek

    model, vocabulary = classifier(rows, WIDTH, "mean")
    exports = {"model.export": (folder / "stock", rows)}
    model.export(folder / "stock", verbose=False)
    for dtype in DTYPES:
        path = ek.export_saved_model(model, folder / dtype, vocabulary=vocabulary, dtype=dtype)
        exports[f"embkeras, {dtype}"] = path, rows
    model, vocabulary = classifier(FEW, WIDTH, "mean")
    exports[f"embkeras, {FEW} rows"] = ek.export_saved_model(model, folder / "few", vocabulary=vocabulary), FEW
    return exports


def held() -> int:
    """Anonymous and shared bytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def _asker(runtime: str, folder: str):
    """A function from ids to the answer of `serving_default`, for any name of its input."""
    if runtime == "C API":
        from tests.serving.c_api import Session

        session = Session(folder)
        (name,) = session.inputs["serving_default"]
        return lambda ids: session.run("serving_default", {name: ids})
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    signature = loaded.signatures["serving_default"]
    ((name, spec),) = signature.structured_input_signature[1].items()

    def ask(ids):
        # `loaded` is named here so that its variables live.
        answers = signature(**{name: tf.constant(ids, spec.dtype)}), loaded
        return {key: value.numpy() for key, value in answers[0].items()}

    return ask


def child(runtime: str, folder: str, rows: int, seconds: float, started: float) -> None:
    """Load, answer once, report; then time batches of 1 and 64."""
    if runtime == "C API":
        from tests.serving.c_api import library

        library()
    else:
        import tensorflow  # noqa: F401
    before = held()
    ask = _asker(runtime, folder)
    rng = np.random.default_rng(0)
    ask(rng.integers(2, rows, (1, TIME)))
    found = {"cold": time.time() - started, "loaded": held() - before}
    for batch in (1, 64):
        requests = [rng.integers(2, rows, (batch, TIME)) for _ in range(20)]
        taken, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < 30:
            start = time.perf_counter()
            ask(requests[len(taken) % 20])
            taken.append(time.perf_counter() - start)
        found[f"ms of {batch}"] = 1000 * float(np.median(taken[10:]))
    print(json.dumps(found))


def measured(runtime: str, folder: Path, rows: int, rounds: int, seconds: float) -> dict[str, float]:
    """The best of several processes."""
    found = []
    for _ in range(rounds):
        options = ["--child", runtime, str(folder), str(rows), str(seconds), str(time.time())]
        done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: min(each[name] for each in found) for name in found[0]}


def loading(rows: int, rounds: int, seconds: float) -> None:
    """Each export in each runtime."""
    table, lines = rows * WIDTH * 4, []
    with tempfile.TemporaryDirectory() as folder:
        exports = write_exports(Path(folder), rows)
        for runtime in ("TensorFlow", "C API"):
            stock: dict[str, float] = {}
            for name, (path, held_rows) in exports.items():
                disk = sum(file.stat().st_size for file in (path / "variables").iterdir())
                found = {"disk": disk} | measured(runtime, path, held_rows, rounds, seconds)
                stock = stock or found
                scale = {"disk": table, "loaded": table}
                cells = [f"{value / scale.get(key, 1):.2f} ({value / stock[key]:.2f})" for key, value in found.items()]
                lines.append([runtime, name, *cells])
    title = (
        f"A table of {rows:,} x {WIDTH}, {table / 1e6:.0f} MB, in a `mean` classifier; disk and memory in tables, cold "
        f"start in s, latency in ms of a batch of {TIME} tokens; in brackets: of stock's"
    )
    print_table(title, ["runtime", "export", "disk", "cold", "loaded", "batch 1", "batch 64"], lines)


# Throughput


def texts_of(count: int, size: int, seed: int) -> list[np.ndarray]:
    """Texts of realistic lengths: most are short, a few are long."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.7, 0.9, count), 1, 256).astype(int)
    return [rng.integers(2, size, length) for length in lengths]


def batches_of(texts: list[np.ndarray], bucketed: bool) -> list[np.ndarray]:
    """Batches padded to their longest text."""
    texts = sorted(texts, key=len) if bucketed else texts
    groups = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    padded = [np.zeros((len(group), max(map(len, group))), np.int32) for group in groups]
    for rows, group in zip(padded, groups, strict=True):
        for row, text in zip(rows, group, strict=True):
            row[: len(text)] = text
    return padded


def predict_request(ids: np.ndarray) -> bytes:
    """The request as the official classes serialise it."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "words", "serving_int32"
    request.inputs["token_ids"].CopyFrom(tf.make_tensor_proto(ids))
    return request.SerializeToString()


def throughput(count: int, rows: int = 20_000, width: int = 100) -> None:
    """Eight clients and a server on the loop-back address."""
    missing = [name for name in ("grpc", "tensorflow_serving") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"\nThroughput is left out: {' and '.join(missing)} not installed (the extra `serving`).")
        return
    lines = []
    for architecture in ("mean", "cnn", "lstm"):
        share = count // (4 if architecture == "lstm" else 1)
        with tempfile.TemporaryDirectory() as folder:
            exported = _export(Path(folder), rows, width, architecture)
            rates = {}
            for bucketed in (False, True):
                clients = [batches_of(texts_of(share, rows, seed), bucketed) for seed in range(CLIENTS)]
                rates[bucketed], waits = _served(exported, clients)
                tokens = sum(batch.size for batches in clients for batch in batches)
                real = sum(int((batch != 0).sum()) for batches in clients for batch in batches)
                cells = [f"{rates[bucketed]:,.0f} ({rates[bucketed] / rates[False]:.2f})", f"{1 - real / tokens:.0%}"]
                cells += [f"{1000 * np.percentile(waits, share):.1f}" for share in (50, 99)]
                lines.append([architecture, "yes" if bucketed else "no", *cells])
    title = f"A gRPC server on the C API, {CLIENTS} clients, batches of {BATCH} texts, {rows:,} x {width}"
    print_table(title, ["model", "bucketing", "texts/s", "padding", "ms, median", "ms, 99%"], lines)


def _export(folder: Path, rows: int, width: int, architecture: str) -> Path:
    import embkeras as ek

    model, vocabulary = classifier(rows, width, architecture)
    return ek.export_saved_model(model, folder, vocabulary=vocabulary)


def _served(folder: Path, clients: list[list[np.ndarray]]) -> tuple[float, list[float]]:
    """Texts per second over all clients, and the seconds of each request."""
    requests = [[predict_request(batch) for batch in batches] for batches in clients]
    command = [sys.executable, "-m", "tests.serving.c_api_server", str(folder), "words"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        port = int(server.stdout.readline())
        try:
            with ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(lambda own: _ask_all(port, own), requests))  # every shape once
                start = time.perf_counter()
                waits = [wait for own in pool.map(lambda own: _ask_all(port, own), requests) for wait in own]
                seconds = time.perf_counter() - start
        finally:
            server.terminate()
    return sum(len(batch) for batches in clients for batch in batches) / seconds, waits


def _ask_all(port: int, requests: list[bytes]) -> list[float]:
    """One client: its own connection, one request after another."""
    import grpc

    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        predict, waits = channel.unary_unary(PREDICT), []
        for request in requests:
            start = time.perf_counter()
            predict(request, timeout=60, wait_for_ready=True)
            waits.append(time.perf_counter() - start)
    return waits


# Fewer bytes a row


def precision(epochs: int, seeds: int) -> None:
    """The tweets with GloVe: effect of float16 and int8 on size, rows, scores and accuracy."""
    import keras

    import embkeras as ek
    from embkeras.app import material
    from embkeras.app.preparation import prepare
    from embkeras.app.settings import Settings
    from embkeras.text.labelled import labelled, split

    try:
        matrix, words = material.glove_paths()
        rated = material.tweets()
    except ek.errors.EmbkerasError as error:
        print(f"\nfloat16 and int8 are left out: {error}")
        return
    clear = rated[rated["rating"].abs() >= 0.5]
    names = np.where(clear["rating"] > 0, "positive", "negative").tolist()
    parts = split(labelled(clear["text"].tolist(), names))
    prepared = prepare(parts, matrix, Settings(architecture="mean"), lambda line: None, words_file=words)
    (ids, labels), (test_ids, test_labels) = prepared.train, prepared.test
    found: dict[str, list[tuple]] = {dtype: [] for dtype in DTYPES}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = ek.build_classifier(prepared.aligned, len(prepared.class_names), architecture="mean")
        model.compile(keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy")
        model.fit(ids, labels, epochs=epochs, batch_size=32, verbose=0)
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as folder:
                path = ek.export_saved_model(model, folder, vocabulary=prepared.vocabulary, dtype=dtype)
                export = ek.ExportedModel(path)
                size = sum(file.stat().st_size for file in (path / "variables").iterdir())
                (table,) = export.card["tables"].values()
                found[dtype].append((size, table.get("smallest_cosine", 1.0), export.scores(test_ids)))
    lines = []
    for dtype, runs in found.items():
        right = [np.mean(scores.argmax(axis=1) == test_labels) for _, _, scores in runs]
        pairs = list(zip(found["float32"], runs, strict=True))
        apart = max(float(np.abs(first[2] - other[2]).max()) for first, other in pairs)
        changed = sum(int((first[2].argmax(axis=1) != other[2].argmax(axis=1)).sum()) for first, other in pairs)
        size, cosine = runs[0][0], runs[0][1]
        cells = [f"{size / 1e6:.2f} ({size / found['float32'][0][0]:.2f})", f"{cosine:.6f}", f"{np.mean(right):.4f}"]
        lines.append([dtype, *cells, f"{changed} of {seeds * len(test_labels):,}", f"{apart:.1g}"])
    title = f"Tweets, {len(prepared.vocabulary):,} rows of GloVe 6B 50d, `mean` classifier, {seeds} seeds"
    header = ["rows", "variables, MB", "smallest cosine", "accuracy", "labels changed", "largest change of a score"]
    print_table(title, header, lines)


def main() -> None:
    """Run all parts in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the table, less of all")
    parser.add_argument("--only", nargs="+", choices=("wire", "loading", "throughput", "precision"), help="these parts")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        runtime, folder, rows, seconds, started = options.child
        child(runtime, folder, int(rows), float(seconds), float(started))
        return
    quick = options.quick
    parts = {
        "wire": lambda: wire(20_000),
        "loading": lambda: loading(*((8_333, 1, 0.3) if quick else (83_333, 3, 1.0))),
        "throughput": lambda: throughput(512 if quick else 2048),
        "precision": lambda: precision(*((2, 1) if quick else (8, 3))),
    }
    print(machine_line("tensorflow", "keras", "grpcio"))
    for name in options.only or parts:
        parts[name]()


if __name__ == "__main__":
    main()
