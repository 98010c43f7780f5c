"""The cells of encoders.py and parameter_efficient.py in PyTorch: transformers' classifier, and PEFT for LoRA and prompts.

It runs in an environment with torch, transformers and peft, reads one JSON object per line from standard input and answers
with one. The two scripts start it.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from machine import machine_line
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

UNDECAYED = ("bias", "LayerNorm.weight")


def build(folder: str, way: str, classes: int, *, everywhere: bool = False, prompts: int = 0) -> torch.nn.Module:
    """A classifier in which only the variables of a way train; `everywhere` in all blocks, LoRA on query and value alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
    count = model.config.num_hidden_layers
    upper = range(count) if everywhere else range(count // 2, count)
    if way == "prompts":
        return get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=prompts))
    if way == "LoRA":
        dense = ["query", "key", "value", "output.dense", "intermediate.dense"]  # "output.dense" is the attention's too
        dense = ["query", "value"] if everywhere else dense
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
            or (way == "biases" and (inside or everywhere) and name.endswith("bias"))
        )
    return model


def trained(folder: str, asked: dict, arrays: dict) -> tuple[torch.nn.Module, float]:
    """Train; returns the model and the processor time."""
    torch.manual_seed(asked["seed"])
    own = {name: asked[name] for name in ("everywhere", "prompts") if name in asked}
    model = build(folder, asked["way"], int(arrays["labels"].max()) + 1, **own)
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


def saved(model: torch.nn.Module, folder: str) -> dict:
    """How many numbers trained, and the bytes of what is saved of them, in PEFT's form where it is PEFT's."""
    trained = [each for each in model.parameters() if each.requires_grad]
    if isinstance(model, PeftModel):
        model.save_pretrained(folder)
        size = sum(path.stat().st_size for path in Path(folder).iterdir() if path.name.startswith("adapter"))
    else:
        with tempfile.NamedTemporaryFile() as file:
            torch.save([each.detach() for each in trained], file.name)
            size = Path(file.name).stat().st_size
    return {"trained": sum(each.numel() for each in trained), "bytes": size}


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
        answer = {"predicted": classes_of(model, arrays["test_ids"]), "seconds": round(seconds, 2)}
        if "save" in asked:
            part = torch.from_numpy(arrays["test_ids"][: asked["logits"]])
            with torch.no_grad():
                answer["logits"] = model(part, attention_mask=(part != 0).long()).logits.tolist()
            answer |= saved(model, asked["save"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
