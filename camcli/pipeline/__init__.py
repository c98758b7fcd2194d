"""A run: resolve the model and its classes, then read, explain, paint and write the images in order."""
