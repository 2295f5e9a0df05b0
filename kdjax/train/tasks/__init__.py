"""Tasks that a user starts: train, search, distill, evaluate. Each first reads a configuration."""
