"""What a run leaves behind: files that are complete or absent, tables, and the journal of what is done."""
