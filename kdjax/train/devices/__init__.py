"""Devices and processes: one, many, and many machines."""
