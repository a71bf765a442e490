"""Networks that find objects: data with boxes."""

from nni_cream.detection.boxes.annotations import AnnotatedImage, Annotations, Fault
from nni_cream.detection.boxes.box_dataset import BoxDataset
from nni_cream.detection.boxes.coco_file import read_coco
from nni_cream.detection.boxes.voc_folder import read_voc

__all__ = ["AnnotatedImage", "Annotations", "BoxDataset", "Fault", "read_coco", "read_voc"]
