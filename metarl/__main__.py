"""``python -m metarl`` is ``metarl``."""

from metarl.cli import main


main()
