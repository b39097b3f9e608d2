"""Training preference models: configuration, losses, data, the loop, checkpoints, exports. Loads nothing heavy
itself."""
