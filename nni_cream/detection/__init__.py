"""Networks that find objects: data with boxes."""

from nni_cream.detection.annotations import AnnotatedImage, Annotations, Fault
from nni_cream.detection.box_dataset import BoxDataset
from nni_cream.detection.coco_file import read_coco
from nni_cream.detection.voc_folder import read_voc

__all__ = ["AnnotatedImage", "Annotations", "BoxDataset", "Fault", "read_coco", "read_voc"]
