"""Devices and processes: on one device, on many devices, and on many machines."""
