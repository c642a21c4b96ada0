"""Models that come out of PyPI packages, so that the first command works without a hub."""
