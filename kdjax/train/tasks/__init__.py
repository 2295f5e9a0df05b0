"""What a user starts: train, search, evaluate; each resolves a configuration, then runs it."""
