"""`python -m penncloud.cli`."""

from penncloud.cli import main

main()
