"""NNI's DARTS, first order: the most probable path within the limit is the result.

NNI documents a penalty of cost for it, which has no gradient in NNI 3.0, since ``export_probs`` returns plain numbers.
"""

from nni.nas.strategy import DARTS
from nni_parts import build, run_strategy
from nni_probable import most_probable
from peer_task import main


# user: begin
def search(job):
    return most_probable(*job.spend(lambda *length: run_strategy(DARTS(), job, *length)))
    # user: end


if __name__ == "__main__":
    main(search, build)
