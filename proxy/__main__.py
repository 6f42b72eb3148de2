"""`python -m proxy` is `reprise`."""

from proxy.cli import main

main()
