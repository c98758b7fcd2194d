"""From a name to a classifier that is ready to run, with its preprocessing, its class names and its layers."""
