"""The command line. Only this package reads and writes the terminal."""
