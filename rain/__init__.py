"""RAIN: rewindable auto-regressive inference (arXiv 2309.07124)."""
