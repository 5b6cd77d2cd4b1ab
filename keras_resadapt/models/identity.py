"""The identity of a network in a weights file."""

import json
from typing import Any

import keras
import numpy as np

_ENTRY = "identity"


def write_identity(store, identity: dict[str, Any]) -> None:
    """Adds an identity to the variables of a network in a file.

    Args:
        store: The mapping that `save_own_variables` fills.
        identity: Plain values by the constructor's argument.
    """
    store[_ENTRY] = np.frombuffer(json.dumps(identity).encode(), "uint8")


def read_identity(store, expected: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables of a file without the identity.

    Args:
        store: The mapping that `load_own_variables` reads.
        expected: The identity of the network that reads the file.

    Raises:
        ValueError: The file belongs to another network; the message names the
            argument that differs.
    """
    variables = {name: store[name] for name in store.keys()}
    stored = variables.pop(_ENTRY, None)
    if stored is None:
        raise ValueError(
            "The file does not say which network its weights belong to: it was not "
            "saved by a network of this package."
        )
    found = json.loads(bytes(stored[...]).decode())
    expected = json.loads(json.dumps(expected))  # tuples become lists
    for argument in expected | found:
        theirs, ours = found.get(argument), expected.get(argument)
        if theirs != ours:
            raise ValueError(
                "The file holds the weights of a network with "
                f"{argument}={_readable(theirs)}, this one has "
                f"{argument}={_readable(ours)}."
            )
    return variables


def _readable(value):
    if isinstance(value, dict) and "class_name" in value:
        return repr(keras.saving.deserialize_keras_object(value))
    return repr(value)
