"""``python -m metarl`` is ``metarl``."""

from metarl.commands.cli import main


main()
