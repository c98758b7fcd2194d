"""Options: what an option is, the options of a run, TOML files of options, and the settings that an output folder is bound to."""
