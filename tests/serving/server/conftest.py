"""Fixtures: a server of emoji, shared by a module, and OpenAI's client for it."""

import openai
import pytest
from running_server import running_server


@pytest.fixture(scope="module")
def running(emoji_pipe):
    """A server of one model, whose folder has a name of digits: `model_of(running)`."""
    with running_server([emoji_pipe]) as found:
        yield found


@pytest.fixture
def client(running):
    """OpenAI's client, which tries once."""
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as found:
        yield found


@pytest.fixture(scope="session")
def model(emoji_pipe):
    """The name of the model."""
    return emoji_pipe.session.bundle.root.name.removesuffix(".bundle")
