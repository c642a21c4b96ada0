"""What a run leaves on the disk: records, the settings that made them, and how both survive a kill."""
