"""The method alone: tree, search, constants, and the contracts of what they need. Imports nothing else of rain."""
