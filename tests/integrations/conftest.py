import pytest
from janus_cases import LENGTHS, SHAPE, small

from illume_fast.bench.models.janus import janus_prompts


@pytest.fixture
def model():
    """A small Janus with the weights it always has."""
    return small()


@pytest.fixture
def prompts():
    """Prompts of unequal lengths, padded to the left."""
    return janus_prompts(LENGTHS, SHAPE)
