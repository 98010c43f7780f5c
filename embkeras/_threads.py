"""How many threads TensorFlow uses for one operation: set in a worker process, and read for the result."""

import os

import tensorflow as tf

_TOLD = "TF_NUM_INTRAOP_THREADS"


def limit_threads(threads: int) -> None:
    """Use so many from now on, unless TensorFlow has begun, or the environment says how many.

    Args:
        threads: at least 1.
    """
    if os.environ.get(_TOLD):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:  # it has begun, with the number that it has
        return


def threads_in_use() -> int:
    """How many threads an operation may use.

    Examples:
        >>> threads_in_use() > 0
        True
    """
    told = os.environ.get(_TOLD, "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return tf.config.threading.get_intra_op_parallelism_threads() or int(told if told.isdigit() else 0) or cores or 1
