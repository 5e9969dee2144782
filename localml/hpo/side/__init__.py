"""What runs in an algorithm's own process: nothing here is imported by the server."""
