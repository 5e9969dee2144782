"""The vendor's words, to and from the core's."""
