"""Feature visualization by activation maximization, for ``camcli dream``: pictures that activate a class or a channel most.

``optimize`` starts from noise and follows the gradient of the target's activation. ``parametrization`` says which parameters are
optimized and how they become a picture; ``transforms`` has the random jitter, rotation and zoom; ``targets`` says what is
maximized. ``study`` prepares and runs a command; ``write`` writes its files.
"""
