"""What RAIN costs, measured in one run: the published way, this engine, others, and greedy decoding."""
