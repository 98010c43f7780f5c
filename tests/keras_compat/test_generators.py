"""Generators that the process shares: saved, set, and found where Keras and TensorFlow keep them."""

import random
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.random import seed_generator
from tensorflow.python.ops import stateful_random_ops

from embkeras.keras_compat.generators import private_seeds, random_states, set_random_states


@pytest.fixture(autouse=True)
def _generators_as_before():
    """Leave the generators to the next test as they were."""
    states, of_tensorflow = random_states(), stateful_random_ops.global_generator
    yield
    stateful_random_ops.global_generator = of_tensorflow
    set_random_states(states)


def _draw():
    from_keras = keras.ops.convert_to_numpy(keras.random.uniform((3,)))
    from_tensorflow = tf.random.get_global_generator().uniform((3,)).numpy()
    return [random.random(), np.random.rand(), np.random.standard_normal(), *from_keras, *from_tensorflow]


def test_draws_repeat_from_a_state():
    """All four generators continue from where they were."""
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))
    np.random.standard_normal()  # NumPy keeps a second draw back
    _draw()
    states = random_states()
    drawn = _draw()
    assert _draw() != drawn
    set_random_states(states)
    assert _draw() == drawn


def test_generators_of_another_process_are_created():
    """A new process has neither Keras' nor TensorFlow's yet; both continue, without a draw from Python's."""
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))
    _draw()
    states = random_states()
    drawn = _draw()
    keras.backend.clear_session()
    stateful_random_ops.global_generator = None
    assert random_states()["keras"] is None and random_states()["tensorflow"] is None
    set_random_states(states)
    assert _draw() == drawn


def test_a_generator_in_use_is_set_in_place():
    """A traced function that holds TensorFlow's generator sees the state."""
    generator = tf.random.Generator.from_seed(1)
    tf.random.set_global_generator(generator)
    states = random_states()
    drawn = generator.uniform((3,)).numpy()
    set_random_states(states)
    assert tf.random.get_global_generator() is generator
    np.testing.assert_array_equal(generator.uniform((3,)).numpy(), drawn)


def test_private_names_are_there():
    """What random_states reads: without one, the state of its generator would be lost silently."""
    keras.random.uniform((1,))
    tf.random.get_global_generator()
    assert random_states()["keras"].shape == (2,)
    assert seed_generator.global_seed_generator().state is not None
    assert random_states()["tensorflow"].dtype == np.int64


def _seeds(count=2):
    """The seeds that Keras draws for layers without one."""
    return [int(keras.layers.Dropout(0.5).seed_generator.state[0]) for _ in range(count)]


def test_private_seeds_are_those_of_the_shared_source():
    """The numbers of `random.seed`, whoever draws from the shared source meanwhile; afterwards Keras draws from that again."""
    random.seed(3)
    wanted = _seeds()
    random.seed(4)
    later = _seeds()
    random.seed(4)
    with private_seeds(3):
        found = _seeds(1)
        random.random()
        found += _seeds(1)
        with private_seeds(4):
            assert _seeds() == later
    random.seed(4)
    assert found == wanted and _seeds() == later
    assert seed_generator.python_random is random


def test_a_seed_that_is_set_inside_counts():
    """`set_random_seed` in a function that builds a model decides the seeds of its layers, as without a private source."""

    def drawn():
        keras.utils.set_random_seed(5)
        return keras.layers.Dropout(0.5).seed_generator.state.numpy()

    seed, outside = random.seed, drawn()
    with private_seeds(0):
        np.testing.assert_array_equal(drawn(), outside)
    assert random.seed is seed


def test_private_seeds_belong_to_a_thread():
    """Two at once don't disturb each other, and one that ends leaves the other its source."""
    began, ended, found = threading.Barrier(2), threading.Event(), {}

    def work(seed):
        with private_seeds(seed):
            found[seed] = _seeds(1)
            began.wait(60)
            if seed == 3:  # once the other one has ended
                ended.wait(60)
            found[seed] += _seeds(1)
        ended.set()

    wanted = {}
    for seed in (3, 4):
        random.seed(seed)
        wanted[seed] = _seeds()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted and seed_generator.python_random is random


@pytest.mark.stock_keras
def test_stock_seeds_move_with_the_shared_source():
    """Without a source of its own, a layer's seed depends on whoever draws from `random`, as the threads of a Dask worker do."""
    keras.utils.set_random_seed(3)
    wanted = _seeds(1)
    keras.utils.set_random_seed(3)
    random.random()
    assert _seeds(1) != wanted
