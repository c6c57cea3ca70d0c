"""Let ``python -m edgecnn`` do what ``edgecnn`` does."""

from edgecnn.cli.main import main

main()
