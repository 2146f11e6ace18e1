"""How the shipped float networks are made: their data, layers, training, files and records."""
