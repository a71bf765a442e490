"""EfficientNet-lite0 of timm at the largest width within the limit, in steps of 0.05; there is no search."""

from peer_task import main
from small_images import for_small_images, widest
from timm.models.efficientnet import _gen_efficientnet_lite


# user: begin
def build(width):
    return for_small_images(_gen_efficientnet_lite("efficientnet_lite0", width, num_classes=10))


def search(job):
    return widest(build, job.limit)
    # user: end


if __name__ == "__main__":
    main(search, build)
