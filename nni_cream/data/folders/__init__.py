"""Data sets whose images are files in class folders."""
