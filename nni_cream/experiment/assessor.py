"""Old address of :mod:`nni_cream.manager.assessor`."""

from nni_cream.manager.assessor import RetrainAssessor

__all__ = ["RetrainAssessor"]
