"""The groups of ``make bench``, and what they need."""
