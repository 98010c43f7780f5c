"""The text of decoder.py in llama.cpp, in an environment with llama-cpp-python: one JSON object in, one out; for decoder.py."""

import json
import sys
import time
from itertools import islice

import llama_cpp


def main() -> None:
    """Answer."""
    asked = json.loads(sys.stdin.read())
    settings = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    started = time.process_time()
    model = llama_cpp.Llama(asked["file"], **settings)
    loading = time.process_time() - started

    def text() -> list[int]:
        model.reset()
        return list(islice(model.generate(asked["ids"], temp=0.0, repeat_penalty=1.0), asked["new"]))

    text()
    started = time.process_time()
    made = text()
    taken = time.process_time() - started
    scored = llama_cpp.Llama(asked["file"], logits_all=True, **settings)
    scored.eval(asked["ids"])
    scores = scored.scores[len(asked["ids"]) - 1].tolist()
    versions = f"llama-cpp-python {llama_cpp.__version__}"
    found = {"scores": scores, "made": made, "rate": len(made) / taken, "loading": loading, "versions": versions}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
