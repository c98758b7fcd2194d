"""Does a map depend on what the network has learned? The check of Adebayo et al. 2018, "Sanity checks for saliency maps".

The weights are redrawn from the top layer down (``randomize``), the maps computed anew after each step (``check``), compared with
the original's (``similarity``), judged against chance (``verdict``), and shown (``plot``, ``strip``, ``write``).
"""
