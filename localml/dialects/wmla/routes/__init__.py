"""The operations, a module for each of the document's groups."""
