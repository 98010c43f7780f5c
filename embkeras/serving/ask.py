"""Ask a SavedModel for the scores of token ids with TensorFlow alone, which proves that the export works on its own.

Run it as a file: `python ask.py FOLDER` reads JSON lists of ids from standard input, one per line, and writes the scores
of each as a line of JSON. Its last line lists which packages the process had loaded.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


def main() -> None:
    """Answer every line of standard input."""
    serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
    for line in sys.stdin:
        answers = serve(token_ids=tf.constant([json.loads(line)], tf.int64))
        print(json.dumps(answers["scores"][0].numpy().tolist()))
    print(json.dumps({name: name in sys.modules for name in ("tensorflow", "keras", "embkeras")}))


if __name__ == "__main__":
    main()
