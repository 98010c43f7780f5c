"""Checkpoints: the names that the variables of a SavedModel had when it was written.

Private names used here: the message `TrackableObjectGraph`, and `_CHECKPOINTABLE_OBJECT_GRAPH`, the entry of a checkpoint
that holds one with the names; the keys of a checkpoint alone are numbers.
"""

from typing import Any

from embkeras.keras_compat.private import of_module, private_module

_MESSAGES = "tensorflow.core.protobuf.trackable_object_graph_pb2"
_NAMES = "_CHECKPOINTABLE_OBJECT_GRAPH"
PRIVATE = (of_module(_MESSAGES, "TrackableObjectGraph"),)


def variable_keys(reader: Any) -> dict[str, str]:
    """Name of each variable, such as "embedding/embeddings" -> its key in the checkpoint.

    Of several with one name, and of one that is stored twice, the first counts.

    Args:
        reader: from `tf.train.load_checkpoint`.
    """
    graph = private_module(_MESSAGES).TrackableObjectGraph.FromString(reader.get_tensor(_NAMES))
    attributes = [attribute for node in graph.nodes for attribute in node.attributes]
    keys = {each.full_name: each.checkpoint_key for each in reversed(attributes)}
    return {name: key for name, key in keys.items() if reader.has_tensor(key)}
