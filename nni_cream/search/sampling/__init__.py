"""Which path is trained next (paper, section 3.1)."""
