"""Pictures in, batches at several resolutions out. Runs on TensorFlow's tf.data whatever the Keras backend is."""

from keras_resadapt.data.contact_sheet import save_contact_sheet
from keras_resadapt.data.demo import demo_set, demo_source
from keras_resadapt.data.image_folder import image_folder_source
from keras_resadapt.data.loading import load_source
from keras_resadapt.data.pipeline import evaluation_batches, training_batches
from keras_resadapt.data.preprocessing import (
    decode,
    preprocess,
    preprocess_encoded,
)
from keras_resadapt.data.source import ImageSource, check_pictures
from keras_resadapt.data.tfds_source import tfds_source
