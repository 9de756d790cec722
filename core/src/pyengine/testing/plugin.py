"""The pytest plugin: a kit's plain ``assert`` tells what it compared, as in a test file."""

import pytest

pytest.register_assert_rewrite("pyengine.testing")
