"""Train a classifier for your own classes, for ``camcli fit``: a linear probe on a frozen backbone (Zhou et al. 2016).

The model is the backbone up to a layer, global average pooling, and one linear layer, so its class activation maps are exact.
``data`` reads the labelled images, ``features`` computes their pooled features, ``linear_probe`` trains the linear layer,
``finetune`` trains blocks of the backbone as well, ``study`` prepares and runs it all, ``folder`` holds the result.
"""
