"""The identity of a path: encoding, active choices, counts, random paths."""
