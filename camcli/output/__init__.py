"""The output folder of a run: its files, its tables, and the journal that records which images are done."""
