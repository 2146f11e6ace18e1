"""``python -m tessera.cli``: the command line."""

from tessera.cli import main

main()
