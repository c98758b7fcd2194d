"""Load a classifier by name: ready to run, with its preprocessing, class names and layers."""
