"""Old address of :mod:`nni_cream.manager.tuner`."""

from nni_cream.manager.tuner import CreamTuner

__all__ = ["CreamTuner"]
