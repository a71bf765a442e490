from tests.manager.conftest import folder

__all__ = ["folder"]
