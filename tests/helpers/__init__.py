"""What several tests share."""

import pytest

pytest.register_assert_rewrite("helpers.conformance", "helpers.rig")
