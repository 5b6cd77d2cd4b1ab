"""Imports TensorFlow without its start-up messages.

Import this module before Keras and TensorFlow. With `TF_CPP_MIN_LOG_LEVEL` 0 or 1,
it leaves the messages as they are.
"""

import contextlib
import os
import sys
import tempfile

START_UP_MESSAGES = ("All log messages before absl", "port.cc", "cudart_stub", "cuInit")


@contextlib.contextmanager
def without_start_up_messages():
    """Drops TensorFlow's start-up messages, which its log level does not reach.

    They are written to file descriptor 2 by C++ code, before its logging is
    set up. All other lines are passed on when the block ends.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not any(message in line for message in START_UP_MESSAGES):
                    print(line, file=sys.stderr)


# As `keras_resadapt` sets it, which has no effect after TensorFlow is imported
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") >= "2":
    with without_start_up_messages():
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")
