"""Keys of version 0.1 that are gone or renamed, and their replacements."""

from __future__ import annotations

__all__ = ["instead_of"]

_MOVED = {
    "distillation_temperature": "teaching: {temperature: ...}",
    "joint_loss": "teaching: {joint_loss: ...}",
    "distillation_start": "teaching: {start: ...}",
    "distillation_gate": "teaching: {gate: ...}",
    "teacher_weights": "teaching: {weights: ...}",
    "score_images": "scoring: {images: ...}",
    "score_interval": "scoring: {interval: ...}",
    "rescore_interval": "scoring: {rescore_interval: ...}",
    "recalibration_images": "scoring: {recalibration_images: ...}",
    "meta_interval": "matching: {name: meta, interval: ...}",
    "meta_learning_rate": "matching: {name: meta, learning_rate: ...}",
    "probe_images": "matching: {name: meta, probe_images: ...}",
    "match_weight": "matching: {name: ..., weight: ...}",
}
_GONE = {
    "teacher_threshold": "no study found a use for it",
    "match_input": "the meta network compares probabilities",
    "score_batch_size": "scoring takes two training batches at once, at most 256 images",
    "candidates": "the path with the lowest training loss is the candidate",
    "rescore_entries": "a rescoring takes as many entries as add a tenth to the cost",
    "rejection_confidence": "it is 0.9999 now",
}
_SEARCH = {key: f"search.{now}" for key, now in _MOVED.items()}
_SEARCH |= {key: f"none, since {why}. Leave it out" for key, why in _GONE.items()}
_SEARCH["distillation_temperature"] = "search.teaching: {temperature: ...}"
_RECIPE = {
    "global_batch_size": "recipe.batch_size",
    "warmup_epochs": "recipe.warmup_fraction: warmup_epochs / epochs, such as 0.1 for 3 of 30",
}


def instead_of(key: str, prefix: str) -> str | None:
    """Return the replacement of a key that went, below a prefix of sections with dots; ``None`` for any other key."""
    if prefix.endswith(("search.", "searchSpace.")) or "variants." in prefix:
        return _SEARCH.get(key)
    return _RECIPE.get(key) if prefix.endswith("recipe.") else None
