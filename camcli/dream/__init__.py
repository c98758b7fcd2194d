"""Pictures that a network likes: gradient ascent on a class or a channel, from noise, for ``camcli dream``.

``parametrization`` (what the ascent moves, and the picture it stands for) and ``transforms`` (jitter, rotation, zoom) are pure
functions of tensors; ``targets`` are what is maximised, ``optimize`` is the loop, ``write`` the files, ``study`` one command.
"""
