"""Engines whose model runs in another program: vLLM in process, or any server with `/v1/completions`."""
