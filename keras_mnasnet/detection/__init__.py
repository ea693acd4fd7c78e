"""Object detection: MnasNet + SSDLite, trained, evaluated and exported."""

from keras_mnasnet.detection.anchors import AnchorSettings, anchors
from keras_mnasnet.detection.checkpoint import load_detector, save_detector
from keras_mnasnet.detection.model import SSDLite, spec_of
from keras_mnasnet.detection.spec import DetectorSpec

__all__ = ["AnchorSettings", "DetectorSpec", "SSDLite", "anchors", "load_detector", "save_detector", "spec_of"]
