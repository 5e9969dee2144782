"""``python -m localml.cli``: how ``up --detach`` starts the server."""

from localml.cli import main

main()
