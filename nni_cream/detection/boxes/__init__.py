"""Images with boxes: read, checked, changed and composed."""
