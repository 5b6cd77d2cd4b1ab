"""Shared parts of the scripts that measure a query table after the training."""

import os

import keras

from keras_resadapt import inference


def remove_table_of_another_model(path: str, model: keras.Model) -> None:
    """Removes a query table that was measured before a resumed training.

    Args:
        path: The JSON file, which need not exist.
        model: The calibrated network.
    """
    if not os.path.exists(path):
        return
    try:
        inference.QueryTable.load(path, model)
    except ValueError as error:
        print(f"{path} is measured again: {error}")
        os.remove(path)
