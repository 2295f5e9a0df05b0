"""What a user starts: train, search, distill, evaluate; each resolves a configuration first."""
