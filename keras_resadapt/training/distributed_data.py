"""Batches for the current distribution strategy."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def distribute(
    make_batches: Callable[[tuple[int, int]], "tf.data.Dataset"], batch_size: int
) -> "tf.data.Dataset":
    """Returns batches for the `fit` and `evaluate` of the current strategy.

    With several workers, each worker makes only its own rows of every global batch.
    Otherwise, these are the batches of `make_batches`, and TensorFlow divides them
    over the replicas of the process. For example, in `strategy.scope()`:

        batches = distribute(
            lambda shard: data.training_batches(
                source, 128, (64, 48, 32), seed=1, shard=shard
            ),
            128,
        )
        model.fit(batches, steps_per_epoch=source.steps_per_epoch(128), epochs=90)

    As with a single process, `fit` needs `steps_per_epoch` for batches without end,
    and reads the number of evaluation batches from the dataset.

    Args:
        make_batches: Function from (index, count), the number of a worker and the
            number of workers, to the batches of this worker. It is the argument
            `shard` of `data.training_batches` and similar functions.
        batch_size: Images per global batch, which the number of replicas divides.

    Returns:
        A `tf.data.Dataset` with one worker, otherwise a `tf.distribute` dataset whose
        batches have one part per replica.

    Raises:
        ValueError: If `batch_size` is not divisible by the number of replicas of all
            workers.
    """
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    if _num_workers(strategy) == 1:
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.OFF
        )
        return make_batches((0, 1)).with_options(options)
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be divisible by the number of replicas, {replicas}. "
            f"Received: batch_size={batch_size}"
        )

    def make_parts(context):
        count = context.num_input_pipelines
        batches = make_batches((context.input_pipeline_id, count))
        return _divide(batches, replicas // count, batch_size // replicas)

    return strategy.distribute_datasets_from_function(make_parts)


def _num_workers(strategy) -> int:
    """Returns the number of workers of a strategy."""
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec() if resolver else None
    if not cluster:
        return 1
    return sum(cluster.num_tasks(j) for j in ("chief", "worker") if j in cluster.jobs)


def _divide(batches, parts, rows):
    """Divides each batch into parts of successive rows; the last can be empty."""
    import tensorflow as tf

    if parts == 1:
        return batches

    def divided(*batch):
        return tf.data.Dataset.range(parts).map(
            lambda part: tf.nest.map_structure(
                lambda x: x[part * rows : (part + 1) * rows], batch
            )
        )

    number = batches.cardinality()
    number = number * parts if number >= 0 else number
    divided_batches = batches.flat_map(divided).apply(
        tf.data.experimental.assert_cardinality(number)
    )
    return divided_batches.prefetch(parts)
