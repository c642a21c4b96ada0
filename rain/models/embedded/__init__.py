"""Models from PyPI packages, so that the first command works without a hub."""
