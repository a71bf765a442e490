"""Old address of :mod:`nni_cream.manager.trial`."""

from nni_cream.manager.trial import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
