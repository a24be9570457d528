"""``python -m trimtab``: the command line, where the script of that name is not on the path."""

from trimtab.cli import main

main()
