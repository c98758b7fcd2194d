"""The model parameter randomization test of Adebayo et al. 2018, "Sanity Checks for Saliency Maps", for ``camcli sanity``.

It answers the question: does an attribution map depend on what the network has learned? The weights are randomized from the top
layer down (``randomize``), the maps are computed again after each step (``check``) and compared with the original maps
(``similarity``), the result is compared with chance (``verdict``) and shown (``plot``, ``strip``). ``study`` prepares and runs a
check; ``write`` writes its folder.
"""
