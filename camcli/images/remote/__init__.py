"""Images in object stores and on web servers: s3://, gs://, https:// and whatever else fsspec can read.

``addresses`` says what an address means. ``store`` reads from one, with patience; ``s3``, ``web`` and ``other`` know how each kind
of store answers. ``objects`` turns objects into sources, ``listing`` finds them. The first read imports fsspec and its packages.
"""
