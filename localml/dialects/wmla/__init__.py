"""IBM WMLA at ``/platform/rest/deeplearning/v1``: known to ``localml env``, not served yet."""
