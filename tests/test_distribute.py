"""Batches of workers and their replicas."""

import numpy as np
import pytest
import tensorflow as tf
from test_data import numbered_source

from keras_resadapt import training
from keras_resadapt.data import evaluation_batches, training_batches
from keras_resadapt.training import distributed_data


class Workers:
    """A strategy of several workers with several replicas each.

    On CPUs, `MultiWorkerMirroredStrategy` has a single replica in each process.
    """

    class cluster_resolver:
        @staticmethod
        def cluster_spec():
            return tf.train.ClusterSpec({"worker": ["a:1", "b:2"]})

    num_replicas_in_sync = 4

    def distribute_datasets_from_function(self, make_parts):
        contexts = (tf.distribute.InputContext(2, index, 4) for index in range(2))
        return [make_parts(context) for context in contexts]


def make_training(shard):
    return training_batches(
        numbered_source(24), 8, 8, crop="pad", seed=1, epochs=1, shard=shard
    )


def make_evaluation(shard):
    return evaluation_batches(numbered_source(13), 8, 8, shard=shard)


def labels_of(batches):
    return [np.array(labels) for _, labels in batches]


@pytest.mark.parametrize("make", [make_training, make_evaluation])
def test_two_workers_with_two_replicas_each(make, monkeypatch):
    monkeypatch.setattr(tf.distribute, "get_strategy", Workers)
    workers = training.distribute(make, 8)
    whole = labels_of(make((0, 1)))
    assert [batches.cardinality() for batches in workers] == [2 * len(whole)] * 2
    parts = [labels_of(batches) for batches in workers]
    for step, expected in enumerate(whole):
        of_step = [part for own in parts for part in own[2 * step : 2 * step + 2]]
        assert all(len(part) <= 2 for part in of_step)
        np.testing.assert_array_equal(np.concatenate(of_step), expected)
    assert all(len(part) == 2 for own in parts for part in own[:2])


def test_a_batch_that_the_replicas_do_not_divide(monkeypatch):
    monkeypatch.setattr(tf.distribute, "get_strategy", Workers)
    with pytest.raises(ValueError, match="number of replicas, 4.*batch_size=6"):
        training.distribute(make_training, 6)


@pytest.mark.parametrize("workers", [1, 2])
def test_two_replicas_of_this_process(workers, monkeypatch):
    """TensorFlow divides the batches of one worker; several workers divide theirs."""
    monkeypatch.setattr(distributed_data, "_num_workers", lambda strategy: workers)
    with training.strategy_scope("mirrored"):
        strategy = tf.distribute.get_strategy()
        batches = training.distribute(make_evaluation, 8)
    if workers == 1:
        assert batches.cardinality() == 2
        batches = strategy.experimental_distribute_dataset(batches)
    found = [strategy.experimental_local_results(labels) for _, labels in batches]
    assert [[len(part) for part in parts] for parts in found] == (
        [[4, 4], [3, 2]] if workers == 1 else [[4, 4], [4, 1]]
    )
    np.testing.assert_array_equal(np.concatenate(sum(found, ())), range(13))
