"""Measurements: ``make bench`` for the table of docs/performance.md, ``make profile`` for where the time of one run goes."""
