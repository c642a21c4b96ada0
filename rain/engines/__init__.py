"""Language models behind the contract of ``rain.core.engine``; ``registry.open_engine`` starts one by name."""
