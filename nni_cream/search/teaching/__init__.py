"""Who teaches a path, and how (paper, sections 3.2 and 3.3)."""
