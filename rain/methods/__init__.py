"""Methods that answer a prompt: RAIN's search, and what it is compared with at equal cost."""
