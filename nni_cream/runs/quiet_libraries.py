"""Keep the libraries' own chatter away from what a program of ours prints."""

from __future__ import annotations

import logging
import os
import warnings

from nni_cream.processes.garbage import importing

__all__ = ["quiet_libraries"]

_OF_WORKERS = "ignore::RuntimeWarning:nni.nas.nn.pytorch.layers"  # said on import, before anything of ours runs there


def quiet_libraries(*, training: bool = False) -> None:
    """Hold back what NNI and Lightning say about themselves, in this whole process. Errors still come through.

    Processes that it starts from now on do not repeat what NNI says of the version of torch.

    Parameters
    ----------
    training
        Whether this process will train, so that Lightning is needed anyway.
    """
    # Both warn about the versions of torch that they meet, on import and at every start.
    warnings.filterwarnings("ignore", module=r"nni\.|pytorch_lightning\.|lightning_fabric\.|torchmetrics\.")
    warnings.filterwarnings("ignore", message=".*(does not have many workers|pkg_resources is deprecated).*")
    filters = os.environ.get("PYTHONWARNINGS", "")
    if _OF_WORKERS not in filters:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [filters, _OF_WORKERS]))
    with importing("pytorch_lightning" if training else "nni"):
        from nni.runtime.log import silence_stdout

        if training:
            import pytorch_lightning  # noqa: F401 - sets the level of its loggers, so it has to come first

    silence_stdout()
    if training:
        for library in ("pytorch_lightning", "lightning_fabric"):
            logging.getLogger(library).setLevel(logging.ERROR)
        # What these announce at level ERROR is an exception that reaches the user anyway, with its own message.
        for announcer in ("nni.nas.execution.sequential", "nni.nas.strategy.base"):
            logging.getLogger(announcer).setLevel(logging.CRITICAL)
