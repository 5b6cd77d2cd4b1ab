"""Reductions over the replicas of `tf.distribute`.

Outside a replica, as in a strategy's scope without `strategy.run`, there is one
tensor and nothing to reduce.
"""

import keras


def num_replicas() -> int:
    """Returns the number of replicas in sync; 1 outside `tf.distribute`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(tensor):
    """Returns the sum of the replicas' tensors, in every replica."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return tensor
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def gather_from_replicas(tensor):
    """Returns the replicas' tensors, concatenated along the first axis."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return tensor if context is None else context.all_gather(tensor, axis=0)
