"""The cases, one file per area, measured in the order of the files' names (memory while fresh)."""
