"""The bodies, a module for each of the document's groups."""
