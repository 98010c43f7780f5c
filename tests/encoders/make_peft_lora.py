"""Make tests/encoders/peft_lora: a LoRA folder that PEFT wrote for the BERT of `folders.write_folder`, and its scores.

It runs where torch, transformers, peft and tokenizers are installed: python -m tests.encoders.make_peft_lora
"""

import json
import shutil
import tempfile
from pathlib import Path

from tests.encoders.folders import write_folder

FOLDER = Path(__file__).with_name("peft_lora")
IDS = [[2, 26, 27, 3], [2, 5, 15, 3], [2, 27, 3, 0]]


def main():
    """Write the folder; random A, B and classifier."""
    import peft
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as beside:
        base = write_folder(Path(beside) / "bert", hidden_act="gelu")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        config = peft.LoraConfig(
            task_type="SEQ_CLS",
            r=2,
            lora_alpha=3,
            target_modules=["query", "value", "attention.output.dense", "intermediate.dense", "pooler.dense"],
            rank_pattern={"query": 1},
            alpha_pattern={"value": 5},
            use_rslora=True,
        )
        model = peft.get_peft_model(model, config).eval()
        torch.manual_seed(0)
        with torch.no_grad():
            for each in model.parameters():
                if each.requires_grad:
                    each.normal_(0, 0.5)
            ids = torch.tensor(IDS)
            scores = model(ids, attention_mask=(ids != 0).long()).logits.softmax(1)
        shutil.rmtree(FOLDER, ignore_errors=True)
        model.save_pretrained(FOLDER)
    config_file = FOLDER / "adapter_config.json"
    config_file.write_text(
        json.dumps(json.loads(config_file.read_text()) | {"base_model_name_or_path": "bert"}, indent=1)
    )
    (FOLDER / "README.md").unlink()
    (FOLDER / "scores.json").write_text(json.dumps(scores.tolist()))


if __name__ == "__main__":
    main()
