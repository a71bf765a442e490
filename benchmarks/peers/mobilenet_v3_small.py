"""MobileNetV3-small of timm at the largest width within the limit, in steps of 0.05; there is no search."""

from peer_task import main
from small_images import for_small_images, widest
from timm.models.mobilenetv3 import _gen_mobilenet_v3


# user: begin
def build(width):
    return for_small_images(_gen_mobilenet_v3("mobilenetv3_small_100", width, num_classes=10))


def search(job):
    return widest(build, job.limit)
    # user: end


if __name__ == "__main__":
    main(search, build)
