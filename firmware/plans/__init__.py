"""Runs of plans on the co-simulated RTL, and what is shown of them: text, summary, page and trace."""
