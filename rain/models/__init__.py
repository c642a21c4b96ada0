"""Names to weights: embedded models, folders, .gguf files and hub names."""
