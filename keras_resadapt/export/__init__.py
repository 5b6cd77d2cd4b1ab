"""Export as SavedModels for TensorFlow Serving and as LiteRT files.

Needs the TensorFlow backend.
"""

try:
    import tensorflow
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "`keras_resadapt.export` needs TensorFlow, and the TensorFlow backend "
        "of Keras: `pip install tensorflow` and set "
        "`KERAS_BACKEND=tensorflow`.",
        name=error.name,
    ) from error

from keras_resadapt.export.litert import export_litert
from keras_resadapt.export.saved_model import export_saved_model
from keras_resadapt.export.warmup import replay_warmup
