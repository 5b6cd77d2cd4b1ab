"""Batches that other machines decode."""

import re
import socket

import tensorflow as tf

# Seconds in which the dispatcher must answer. TensorFlow itself waits without end.
PATIENCE = 30.0


def through_service(batches: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Returns batches that the workers of a tf.data service make.

    The service decodes and augments on machines of its own, for training that waits for
    its input. Its dispatcher and workers are a
    `tf.data.experimental.service.DispatchServer` and several `WorkerServer`. They have
    the TensorFlow version of the training, and the files of the data set at the same
    paths.

    The training cannot be repeated:

    - Each worker of the service makes the batches of other epochs, and batches arrive
      in any order. A training epoch has the usual number of steps, with batches of
      several epochs of the data.
    - Each batch arrives at most once. If a worker of the service is lost, the other
      batches of its epoch never arrive.
    - A resumed training begins with other batches than the next ones.

    With several shards, each worker of the training receives its own part of the
    images, and the parts of a global batch belong to different steps.

    Args:
        batches: Training batches without end (`epochs=None`).
        address: The address of the dispatcher, such as `"grpc://10.0.0.5:5050"`.

    Returns:
        `tf.data.Dataset` of the same element spec.

    Raises:
        ValueError: If `address` is not of the form `grpc://HOST:PORT`, or the batches
            have an end.
        OSError: If nothing listens at the address.
    """
    parts = re.fullmatch(r"grpc://([^/]+):(\d{1,5})", str(address))
    if not parts or not 0 < int(parts[2]) < 65_536:
        raise ValueError(
            f"`address` must be of the form grpc://HOST:PORT. Received: {address!r}"
        )
    if batches.cardinality() != tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`batches` must have no end, as with `epochs=None`. Received: "
            f"{batches.cardinality()} batches"
        )
    try:
        host = parts[1].strip("[]")
        socket.create_connection((host, int(parts[2])), PATIENCE).close()
    except OSError as error:
        raise OSError(
            f"The dispatcher of a tf.data service must listen at {address}. "
            f"Received: {error}"
        ) from error
    service = tf.data.experimental.service
    return batches.apply(
        # The epochs are divided over the workers of the service.
        service.distribute(service.ShardingPolicy.DYNAMIC, address)
    ).prefetch(tf.data.AUTOTUNE)
