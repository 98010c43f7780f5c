"""The text of decoder.py in transformers, in an environment with torch: one JSON object in, one out. decoder.py starts it."""

import json
import sys
import time

import torch
import transformers


def main() -> None:
    """Answer."""
    asked = json.loads(sys.stdin.read())
    torch.set_num_threads(1)
    started = time.process_time()
    model = transformers.LlamaForCausalLM.from_pretrained(asked["folder"], dtype=torch.float32).eval()
    loading = time.process_time() - started
    ids = torch.tensor([asked["ids"]])

    def text() -> torch.Tensor:
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=asked["new"],
            min_new_tokens=asked["new"],
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )

    with torch.no_grad():
        scores = model(ids).logits[0, -1].tolist()
        text()
        started = time.process_time()
        made = text()[0, ids.shape[1] :].tolist()
        taken = time.process_time() - started
    versions = f"transformers {transformers.__version__} (torch {torch.__version__})"
    print(
        json.dumps(
            {"scores": scores, "made": made, "rate": len(made) / taken, "loading": loading, "versions": versions}
        )
    )


if __name__ == "__main__":
    main()
