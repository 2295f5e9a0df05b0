"""Runs: training one method with one seed, with checkpoints, metrics, progress, interrupts."""
