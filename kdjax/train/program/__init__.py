"""What is computed on the devices: state, objective, step, and the compiled functions."""
