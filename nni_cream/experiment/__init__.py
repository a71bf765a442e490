"""Old addresses of :mod:`nni_cream.manager`, for experiment files that users copied from version 0.1.

NNI imports ``nni_cream.experiment.tuner.CreamTuner`` and runs ``python -m nni_cream.experiment.trial``. New files name
``nni_cream.manager`` instead.
"""
