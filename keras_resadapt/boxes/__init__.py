"""Boxes: anchors, coding, matching, sampling, NMS, ROI align, masks and losses.

Pure functions of tensors, for the heads of detectors. The conventions:

- A box is `(x1, y1, x2, y2)` in pixels of the network's input, a float32 vector.
  Pixel (0, 0) covers the box `(0, 0, 1, 1)`.
- The batch dimension comes first. Every image has the same number of boxes: unused
  entries come last, and a count or a mask of validity leaves them out.
- A size is `(height, width)`.

The functions compute what torchvision's detectors compute. NMS, ROI align and mask
targets run on TensorFlow only.
"""

from keras_resadapt.boxes.anchors import cell_anchors, grid_anchors
from keras_resadapt.boxes.assignment import assign_anchors, assign_boxes, valid_targets
from keras_resadapt.boxes.coding import clip, decode, encode, is_at_least
from keras_resadapt.boxes.losses import count_samples, detection_losses
from keras_resadapt.boxes.mask_targets import mask_targets
from keras_resadapt.boxes.matching import iou, match
from keras_resadapt.boxes.nms import select_detections, select_proposals
from keras_resadapt.boxes.pasting import paste_masks
from keras_resadapt.boxes.roi_align import levels_of, pyramid_roi_align, roi_align
from keras_resadapt.boxes.sampling import first_by_index, sample
from keras_resadapt.boxes.settings import DetectionSettings
