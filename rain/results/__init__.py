"""What a run writes: records, the configuration that made them, and how both survive a kill."""
