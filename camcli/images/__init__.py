"""Image files: find them, decode them to pixels, and resize and crop them for the network. This package does not import torch."""
