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


def spans_workers(strategy=None) -> bool:
    """Returns whether the replicas run in several processes.

    Args:
        strategy: A strategy of `tf.distribute`; by default the one of the scope.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    jobs = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(map(len, jobs.values())) > 1


def in_replica() -> bool:
    """Returns whether this code runs in one of several replicas."""
    if num_replicas() == 1:
        return False
    import tensorflow as tf

    return not tf.distribute.in_cross_replica_context()


def sum_over_replicas(tensor):
    """Returns the sum of the replicas' tensors, in every replica."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return tensor
    # Values of variables and arguments of functions have no device, which several
    # workers need to know.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))


def mean_over_replicas(tensor):
    """Returns the mean of the replicas' tensors, in every replica."""
    return sum_over_replicas(tensor) / num_replicas() if in_replica() else tensor


def rows_of_replica(count) -> tuple:
    """Returns the place of this replica's rows in the global batch.

    Args:
        count: The number of rows of this replica, which all replicas have.

    Returns:
        The index of the first row, and the number of rows of the global batch.
    """
    if not in_replica():
        return 0, count
    import tensorflow as tf

    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return replica * count, num_replicas() * count


def gather_from_replicas(tensor, options=None):
    """Returns the replicas' tensors, concatenated along the first axis.

    Args:
        tensor: Tensor whose first axis may have another length in each replica.
        options: `tf.distribute.experimental.CommunicationOptions`; by default those of
            the strategy.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return tensor
    return context.all_gather(tf.identity(tensor), axis=0, options=options)
