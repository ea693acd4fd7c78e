"""A Google checkpoint, for tests of several files."""

import pytest
from fixtures import Fixture


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """(prefix, tensors) of a Google A1 0.35 checkpoint."""
    fixture = Fixture("google-a1-d0.35-96")
    return fixture.write(tmp_path_factory.mktemp("google")), fixture.tensors()
