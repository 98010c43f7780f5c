"""The cells of encoders.py in PyTorch: transformers' classifier, and PEFT for LoRA.

It runs in an environment with torch, transformers and peft, reads one JSON object per line from standard input and answers
with one. encoders.py starts it.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers
from machine import machine_line
from peft import LoraConfig, get_peft_model

UNDECAYED = ("bias", "LayerNorm.weight")


def build(folder: str, way: str, classes: int) -> torch.nn.Module:
    """A classifier in which only the variables of a way train."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
    count = model.config.num_hidden_layers
    upper = range(count // 2, count)
    if way == "LoRA":
        dense = ["query", "key", "value", "output.dense", "intermediate.dense"]  # "output.dense" is the attention's too
        config = LoraConfig(
            task_type="SEQ_CLS",
            r=8,
            lora_alpha=8,
            target_modules=dense,
            layers_to_transform=list(upper),
            layers_pattern="layer",
        )
        return get_peft_model(model, config)
    for name, each in model.named_parameters():
        inside = any(f"layer.{place}." in name for place in upper)
        each.requires_grad = (
            way == "all"
            or name.startswith("classifier")
            or (way == "top" and f"layer.{count - 1}." in name)
            or (way == "biases" and inside and name.endswith("bias"))
        )
    return model


def trained(folder: str, asked: dict, arrays: dict) -> tuple[torch.nn.Module, float]:
    """Train; returns the model and the processor time."""
    torch.manual_seed(asked["seed"])
    model = build(folder, asked["way"], int(arrays["labels"].max()) + 1)
    started = time.process_time()
    model.train()
    ids, labels = torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["labels"].astype(np.int64))
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    groups = [
        {
            "params": [each for name, each in named if name.endswith(UNDECAYED) is small],
            "weight_decay": 0.0 if small else 0.01,
        }
        for small in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=asked["rate"])
    batch = asked["batch"]
    steps = asked["epochs"] * -(-len(ids) // batch)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    for _ in range(asked["epochs"]):
        for rows in torch.randperm(len(ids)).split(batch):
            loss = model(ids[rows], attention_mask=(ids[rows] != 0).long(), labels=labels[rows]).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model, time.process_time() - started


def classes_of(model: torch.nn.Module, ids: np.ndarray) -> list[int]:
    """The classes of texts."""
    model.eval()
    lengths = (ids != 0).sum(axis=1)
    found = np.zeros(len(ids), int)
    with torch.no_grad():
        for rows in np.array_split(np.argsort(lengths, kind="stable"), -(-len(ids) // 64)):
            part = torch.from_numpy(ids[rows, : lengths[rows].max()])
            found[rows] = model(part, attention_mask=(part != 0).long()).logits.argmax(1).numpy()
    return found.tolist()


def main() -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print too
    print(json.dumps({"machine": machine_line("torch", "transformers", "peft")}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        arrays = dict(np.load(asked["arrays"]))
        model, seconds = trained(sys.argv[1], asked, arrays)
        predicted = classes_of(model, arrays["test_ids"])
        print(json.dumps({"predicted": predicted, "seconds": round(seconds, 2)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
