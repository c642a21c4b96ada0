"""The transformers engine: a tree of cached tokens for each search, one forward pass for all of them."""
