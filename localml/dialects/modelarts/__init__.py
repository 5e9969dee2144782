"""Huawei ModelArts at ``/v1``: known to ``localml env``, not served yet."""
