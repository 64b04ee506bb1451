"""Base of text encoders whose tokenizer is a tokenizer.json."""

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.tokenizers.tokenizer_json import JSON_FILES, JsonTokenizer

__all__ = ["JsonTextEncoder"]


class JsonTextEncoder:
    """A `TextEncoder` with the tokenizer of a tokenizer.json. A subclass runs the network.

    Attributes:
        name: Name of the component.
        folder: Folder of its tokenizer, named alike ("text_encoder_3", "tokenizer_3").
        tokenizer: Its tokenizer.
    """

    def __init__(self, session: EngineSession, name: str = "text_encoder", folder: str | None = None) -> None:
        """Read the tokenizer; the engine is opened when first needed.

        Args:
            session: The engines.
            name: Name of the component.
            folder: Folder of its tokenizer, where it is not named alike.

        Raises:
            BundleError: The bundle lacks the component or the tokenizer.
        """
        bundle = session.bundle
        bundle.engines(name)
        self.name = name
        self.folder = folder or name.replace("text_encoder", "tokenizer")
        files = {file: f"{self.folder}/{file}" for file in JSON_FILES}
        checked = {file: bundle.file(path) for file, path in files.items() if bundle.has(path)}
        self.tokenizer = JsonTokenizer(checked, str(bundle.root / self.folder))
        self._session = session

    @property
    def length(self) -> int:
        """Largest number of tokens, as the tokenizer's files say.

        Raises:
            InputError: They do not.
        """
        return self.tokenizer.check_length()

    @property
    def fixed_tokens(self) -> int | None:
        """The only number of tokens that the engine takes; None for any."""
        taken = {spec.name: spec.shape for spec in self._session.declared_inputs(self.name)}
        tokens = taken.get("input_ids", (None, None))[1]
        return tokens if isinstance(tokens, int) else None

    def check_tokens(self, tokens: int) -> None:
        """Refuse a number of tokens that the engine does not take.

        Raises:
            InputError: It was made for another number.
        """
        expected = self.fixed_tokens
        if expected is not None and expected != tokens:
            raise InputError(
                f"max_sequence_length: got {tokens}, expected {expected}: the engine of {self.name!r} was made for no "
                f"other number of tokens; leave it out, or use an engine for onnxruntime or openvino"
            )
