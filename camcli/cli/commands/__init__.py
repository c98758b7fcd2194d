"""The commands of the command line, a module each: every module in this folder is imported, and registers what it offers."""
