"""Sets of images, and batches of them at several resolutions.

Everything runs on tf.data, whatever the Keras backend is.
"""

from keras_resadapt.data.broken_images import check_pictures
from keras_resadapt.data.class_names import read_class_names, write_class_names
from keras_resadapt.data.coco_folder import coco_folder_source
from keras_resadapt.data.contact_sheet import save_contact_sheet
from keras_resadapt.data.data_service import through_service
from keras_resadapt.data.decoding import MAX_PIXELS, decode
from keras_resadapt.data.demo import (
    demo_detection_source,
    demo_segmentation_source,
    demo_set,
    demo_source,
)
from keras_resadapt.data.detection_pipeline import (
    detection_evaluation_batches,
    detection_training_batches,
)
from keras_resadapt.data.detection_source import (
    DetectionSource,
    ObjectCounts,
    check_objects,
)
from keras_resadapt.data.detection_tfds import tfds_detection_source
from keras_resadapt.data.image_folder import image_folder_source
from keras_resadapt.data.loading import load_source
from keras_resadapt.data.pipeline import evaluation_batches, training_batches
from keras_resadapt.data.preprocessing import preprocess, preprocess_encoded
from keras_resadapt.data.segmentation_folder import segmentation_folder_source
from keras_resadapt.data.segmentation_pipeline import (
    segmentation_evaluation_batches,
    segmentation_training_batches,
)
from keras_resadapt.data.segmentation_source import SegmentationSource
from keras_resadapt.data.segmentation_tfds import tfds_segmentation_source
from keras_resadapt.data.source import ImageSource
from keras_resadapt.data.tfds_source import tfds_source
