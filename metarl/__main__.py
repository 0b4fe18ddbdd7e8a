"""The entry point of ``python -m metarl``, which runs the ``metarl`` command."""

from metarl.commands.cli import main


main()
