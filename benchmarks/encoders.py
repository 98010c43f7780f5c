"""A pre-trained encoder: how exactly it is read, and the bytes it is served in, whole and trimmed to the pieces of the tweets.

python benchmarks/encoders.py FOLDER              # a Hugging Face folder, such as all-MiniLM-L6-v2
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from export_size import bytes_under
from machine import machine_line

import embkeras as ek
from embkeras.app.preparation import rated_tweets
from embkeras.encoders.families import architecture_of
from embkeras.encoders.reference import hidden_states
from embkeras.encoders.tensors import opened

LENGTH = 64


def exactness(read: ek.PretrainedEncoder, ids: np.ndarray) -> float:
    """The largest difference between the Keras model's vectors and those of NumPy, where no padding is."""
    of = architecture_of(read.config, "config.json")
    with opened(read.folder, of.family) as tensors:
        wanted = hidden_states(tensors, of, ids)
    return float(np.abs(read.model()(ids) - wanted)[ids != read.tokenizer.padding_id].max())


def main() -> None:
    """Read, compare, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="config.json, model.safetensors and a tokenizer")
    options = parser.parse_args()
    print(machine_line("tensorflow", "keras", "keras-hub"))
    started = time.process_time()
    read = ek.load_pretrained(options.folder)
    print(f"{read}: read in {time.process_time() - started:.1f} s of CPU")
    parts = rated_tweets(print, quick=False)
    texts = list(parts.train.texts)
    print(
        f"vectors of 32 tweets: within {exactness(read, read.tokenizer.encode_batch(texts[:32], LENGTH)):.1e} of NumPy"
    )
    small = read.trimmed(texts)
    models = {
        "whole": (read, ek.build_encoder_classifier(read, 2)),
        "trimmed": (small, ek.build_encoder_classifier(small, 2)),
    }
    for one, other in zip(models["trimmed"][1].layers, models["whole"][1].layers, strict=True):
        if other.name != "token_embedding":
            one.set_weights(other.get_weights())
    wanted = np.asarray(models["whole"][1](read.tokenizer.encode_batch(texts[:256], LENGTH)))
    for name, (encoder, model) in models.items():
        ids = encoder.tokenizer.encode_batch(texts[:256], LENGTH)
        for dtype in ("float32", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                version = ek.export_saved_model(model, folder, vocabulary=encoder.tokenizer, dtype=dtype)
                scores = ek.ExportedModel(folder).ask("serving_default", token_ids=ids)["scores"]
                print(
                    f"{name}, {len(encoder.tokenizer):,} pieces, table as {dtype}: variables "
                    f"{bytes_under(version / 'variables') / 1e6:.1f} MB, scores within {np.abs(scores - wanted).max():.1e}"
                )


if __name__ == "__main__":
    main()
