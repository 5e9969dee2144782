"""Bodies of requests and answers, and what may stand in URLs."""
