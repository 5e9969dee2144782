"""From MLBench's words to the core's, and back."""
