"""The operating point and its interpreters.

An `OperatingPoint` is a frozen value that is passed through every call of a
network. Blocks call each of their layers through it, `point.call(layer, x)`, so
that a subclass of the point sees every layer of a pass, in order, with its inputs.
Such a subclass is an *interpreter*: it computes something about a pass, or computes
the pass in another way, without a hook or a flag in any layer.

The contract of an interpreter:

- It is a frozen dataclass that derives from `OperatingPoint` and is made from a
  point by `point.interpreted_by(Interpreter)`, which keeps the axes.
- It overrides `call`, and `affine` where normalizations matter, which `conv_norm`
  folds into convolutions in inference. It may leave a layer out, replace its
  result, or record it; what it returns has the shape and dtype that the layer
  would return.
- It decides by what a layer can do (`hasattr(layer, "normalize_by_batch")`), never
  by the name of a layer, a family or a task.
- It stores what it records in its own fields, never in a layer, with the exception of
  `NotingPoint`, which runs once while a network is built.
- It lives in this folder if it needs nothing but layers.

| interpreter | what it does |
|---|---|
| `RecordingPoint` | records layers and shapes, and runs none of them (`profile`) |
| `NotingPoint` | notes the quantizer of each tensor, while a network is built |
| `CollectingPoint` | normalizes by the batch and collects its statistics |
| `CalibratingPoint` | calibrates activation quantizers, and rounds nothing |
| `ListingPoint` | lists the activation quantizers of a pass |
| `MaskedPoint` | masks channels instead of slicing kernels, in training |
| `ConvertiblePoint` | keeps normalizations in a form that LiteRT converts well |
"""

from keras_resadapt.points.calibrating import CalibratingPoint, ListingPoint
from keras_resadapt.points.collecting import CollectingPoint
from keras_resadapt.points.converting import ConvertiblePoint
from keras_resadapt.points.masked import MaskedPoint
from keras_resadapt.points.noting import NotingPoint
from keras_resadapt.points.operating_point import (
    DrawnResolution,
    DrawnWidth,
    OperatingPoint,
)
from keras_resadapt.points.recording import RecordingPoint
