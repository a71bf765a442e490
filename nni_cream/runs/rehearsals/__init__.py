"""Estimates of time and memory, from a few steps on made-up images."""
