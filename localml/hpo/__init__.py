"""Who proposes the trials of a search: algorithms, each in a process of its own."""
