"""The tiny model's folder, written once, and the model in it."""

from pathlib import Path

import pytest
from hf_cases import load_tiny, save_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny_hf"))


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The model and its processor; a test that changes them loads its own."""
    return load_tiny(tiny_folder)
