"""The Lightning side of the method: the paper's step, its parts, its checkpoint."""
