"""Processes that answer prompts: on this machine's devices, or as actors of a Ray cluster."""
