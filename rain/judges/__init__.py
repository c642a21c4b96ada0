"""Judges: who decides whether an answer is harmless, helpful, true or positive, and whether an attack succeeded."""
