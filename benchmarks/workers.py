"""Bytes on the wire and time of a step on two workers: gradients of a table as rows, and as the whole table.

Each worker runs in a network namespace of its own, joined by a pair of virtual interfaces, whose counters say what went
over the wire, headers included. That needs Linux and root (`ip netns`); otherwise both run on the loopback address, whose
counter then holds both directions once.

python benchmarks/workers.py            # writes benchmarks/results/workers.md
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from machine import machine_line

RESULT = Path(__file__).with_name("results") / "workers.md"
ROWS, WIDTH, BATCH, LENGTH = 100_000, 100, 32, 50
WARM, STEPS = 5, 30
SPACES = ("embkeras-worker-0", "embkeras-worker-1")
ADDRESSES = ("10.77.77.1", "10.77.77.2")
FORMS = {
    "rows, RowWiseAdam": "table from build_embedding, whose gradient names rows",
    "dense, Adam": "the same table behind a regularizer, whose gradient is the whole table",
    "frozen": "no gradient of the table",
}


def counted(interface: str) -> int:
    """Bytes received and sent by an interface of this namespace."""
    for line in Path("/proc/net/dev").read_text("ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            fields = numbers.split()
            return int(fields[0]) + (0 if interface == "lo" else int(fields[8]))
    raise SystemExit(f"no interface {interface}")


def worker(form: str, interface: str) -> None:
    """Train one form and print its figures."""
    import keras
    import numpy as np
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import embkeras as ek

    rng = np.random.default_rng(0)
    count = BATCH * (WARM + STEPS) * strategy.num_replicas_in_sync
    ids, labels = rng.integers(1, ROWS, (count, LENGTH)), rng.integers(0, 3, count)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        regularizer = keras.regularizers.L2(1e-6) if form.startswith("dense") else None
        embedding = ek.PretrainedEmbedding(
            ROWS, WIDTH, embeddings_regularizer=regularizer, trainable=form != "frozen", name="embedding"
        )
        inputs = keras.Input((LENGTH,), dtype="int64")
        pooled = keras.layers.GlobalAveragePooling1D()(embedding(inputs))
        model = ek.MultiWorkerModel(inputs, keras.layers.Dense(3, activation="softmax")(pooled))
        optimizer = keras.optimizers.Adam(1e-3) if form.startswith("dense") else ek.RowWiseAdam(1e-3)
        model.compile(optimizer, loss="sparse_categorical_crossentropy")

    class Marks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            marks.append((counted(interface), time.perf_counter(), time.process_time()))

    marks: list[tuple[int, float, float]] = []
    model.fit(
        ids,
        labels,
        batch_size=BATCH * strategy.num_replicas_in_sync,
        shuffle=False,
        verbose=0,
        callbacks=[Marks()],
    )
    first, last = marks[WARM - 1], marks[-1]
    taken = len(marks) - WARM
    each = [(after[1] - before[1]) * 1000 for before, after in zip(marks[WARM - 1 :], marks[WARM:])]  # noqa: B905
    figures = {
        "MB": (last[0] - first[0]) / taken / 1e6,
        "ms": sorted(each)[len(each) // 2],
        "CPU ms": (last[2] - first[2]) / taken * 1000,
    }
    print(json.dumps(figures))


def run(*command: str) -> None:
    """One command of `ip`."""
    subprocess.run(["ip", *command], check=True, capture_output=True)


def make_spaces() -> bool:
    """Two namespaces and a wire between them; False if that isn't allowed here."""
    try:
        for space in SPACES:
            run("netns", "add", space)
        run("link", "add", "ek0", "netns", SPACES[0], "type", "veth", "peer", "name", "ek1", "netns", SPACES[1])
        for place, space in enumerate(SPACES):
            run("-n", space, "addr", "add", f"{ADDRESSES[place]}/24", "dev", f"ek{place}")
            for interface in ("lo", f"ek{place}"):
                run("-n", space, "link", "set", interface, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no network namespaces: {getattr(error, 'stderr', b'') or error}")
        remove_spaces()
        return False
    return True


def remove_spaces() -> None:
    """The wire goes with them."""
    for space in SPACES:
        subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def measured(form: str, spaces: bool, port: int) -> dict[str, float]:
    """The figures of the first worker."""
    hosts = ADDRESSES if spaces else ("127.0.0.1", "127.0.0.1")
    cluster = {"worker": [f"{host}:{port + place}" for place, host in enumerate(hosts)]}
    workers = []
    for place in range(2):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": place}})
        inside = ["ip", "netns", "exec", SPACES[place]] if spaces else []
        command = [*inside, sys.executable, __file__, "--form", form, "--interface", f"ek{place}" if spaces else "lo"]
        env = {**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        workers.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
    try:
        texts = [each.communicate(timeout=400)[0] for each in workers]
    finally:
        for each in workers:
            each.kill()
    if any(each.returncode for each in workers):
        raise SystemExit(f"{form}: a worker failed")
    return json.loads(texts[0].splitlines()[-1])


def main() -> None:
    """Measure all forms and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options.add_argument("--interface", help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, default=23470, help="first of two free ports for each form")
    given = options.parse_args()
    if given.form:
        worker(given.form, given.interface)
        return
    spaces = make_spaces()
    try:
        figures = {form: measured(form, spaces, given.port + 2 * place) for place, form in enumerate(FORMS)}
    finally:
        if spaces:
            remove_spaces()
    where = (
        "two network namespaces joined by virtual Ethernet, both directions, headers included"
        if spaces
        else "the loopback address, each direction once, headers included"
    )
    lines = [
        "# Several workers: bytes and time of a step",
        "",
        f"{machine_line('tensorflow', 'keras')}. Two workers on one machine, which share its cores and were not",
        "alone on it: read times as ratios. Bytes are those of one worker's interface.",
        f"Counted on {where}.",
        f"A table of {ROWS:,} x {WIDTH}, {BATCH} texts of {LENGTH} ids per worker and step, uniform ids; "
        f"{STEPS} steps after {WARM}.",
        "",
        "| gradient | MB a step | median ms a step | CPU ms of a worker | |",
        "|---|---|---|---|---|",
    ]
    for form, found in figures.items():
        lines.append(f"| {form} | {found['MB']:.2f} | {found['ms']:.1f} | {found['CPU ms']:.1f} | {FORMS[form]} |")
    lines += ["", "Made by `python benchmarks/workers.py`.", ""]
    RESULT.write_text("\n".join(lines), "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
