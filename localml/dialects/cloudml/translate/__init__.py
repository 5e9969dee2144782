"""From Cloud-ML's words to the core's, and back."""
