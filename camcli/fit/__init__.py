"""Training a classifier that explains itself: a frozen backbone, average pooling, one linear layer (Zhou et al. 2016)."""
