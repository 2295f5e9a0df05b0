"""Running it: one method and seed, with its checkpoints, metrics, progress and interrupts."""
