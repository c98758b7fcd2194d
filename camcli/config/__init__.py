"""What an option is, the options of a run, TOML files of them, and which of them bind an output folder."""
