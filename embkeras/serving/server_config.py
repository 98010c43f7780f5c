"""Settings for TensorFlow Serving, written beside the versions of a model on request.

See https://www.tensorflow.org/tfx/serving/serving_config. `pad_variable_length_inputs` lets requests of several lengths
share a batch; it pads with the first number of each request, which is why exports move padding behind the text, and
why a client sends a 0 in front.
"""

import re
from pathlib import Path

from embkeras._files import written_beside
from embkeras.errors import ArgumentError

MODELS, BATCHING, COMPOSE = "models.config", "batching.config", "compose.yaml"


def check_name(name: str) -> None:
    """Refuse a name that would have to be quoted in these files, each in another way.

    Raises:
        ArgumentError: it holds something else than letters, digits, `_`, `.` and `-`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ArgumentError(
            f"with_config=True names the model like its folder: letters, digits, '_', '.' and '-'. Received: {name!r}."
        )


def write_server_config(path: Path, name: str, *, pads: bool = True) -> None:
    """Write the three files into the model's folder, but for those that are there: somebody may have changed them.

    Args:
        path: the model's folder.
        name: of the model.
        pads: whether requests of several lengths may share a batch.

    Raises:
        OutputError: one cannot be written.
    """
    contents = {
        MODELS: f"""model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
}}
""",
        BATCHING: f"""max_batch_size {{ value: 64 }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 2 }}
pad_variable_length_inputs: {str(pads).lower()}
""",
        COMPOSE: f"""services:
  {name}:
    image: tensorflow/serving
    command:
      - --model_config_file=/models/{name}/{MODELS}
      - --enable_batching=true
      - --batching_parameters_file=/models/{name}/{BATCHING}
    ports: ["8500:8500", "8501:8501"]
    volumes: [".:/models/{name}:ro"]
""",
    }
    for file, text in contents.items():
        if not (path / file).exists():
            with written_beside(path / file) as beside:
                beside.write_text(text, encoding="utf-8")
