"""Special and added tokens of a CLIP tokenizer and their order, from three generations of files.

A checkpoint stores them in tokenizer_config.json (`added_tokens_decoder`, since transformers 4.34), or in
special_tokens_map.json, added_tokens.json and tokenizer.json (older). Order and flags decide ids: a token that is
not in the vocabulary takes the next free id, and a `normalized` one also matches in upper case. So this follows
`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` of transformers 5.23 line by line.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken

from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.tokenizers._fields import expect, read_object, shorten

__all__ = ["SpecialTokens", "Token", "read_special_tokens"]

Token: TypeAlias = str | AddedToken

_CONFIG = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
_ADDED = "added_tokens.json"
_SAVED = "tokenizer.json"

# transformers: SPECIAL_TOKENS_ATTRIBUTES, in its order.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# transformers: the signature of CLIPTokenizer.__init__.
_DEFAULTS: Mapping[str, str] = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """Tokens outside the byte-pair encoding.

    Attributes:
        bos: Text of the token before a prompt.
        eos: Text of the token after it.
        unk: Text of the token for bytes that the vocabulary lacks.
        pad: Text of the token that fills up a prompt: <|endoftext|> in SD 1.x, "!" in SD 2.x.
        added: Tokens matched before the encoding, in the order in which they are added.
    """

    bos: str
    eos: str
    unk: str
    pad: str
    added: tuple[AddedToken, ...]


def read_special_tokens(
    files: Mapping[str, Path], config: Mapping[str, Any], saved: Mapping[str, Any]
) -> SpecialTokens:
    """Read the special and added tokens.

    Args:
        files: Name to path of the tokenizer's files.
        config: Content of tokenizer_config.json.
        saved: Content of tokenizer.json.

    Raises:
        BundleError: A token has another form, or a role that every CLIP tokenizer has is null.
    """
    path = files.get(_CONFIG, Path(_CONFIG))
    roles = {key: _token(value, path, key) for key, value in config.items() if _is_role(key, value)}
    extra = _extra_tokens(config, path)
    if "added_tokens_decoder" in config:
        decoder = expect(dict, config["added_tokens_decoder"], path, "added_tokens_decoder")
        known = {_index(key, path): _added(value, path, "added_tokens_decoder") for key, value in decoder.items()}
    else:
        roles, extra, known = _read_legacy(files, roles, extra)
        known |= _read_saved(files, saved)
    for role, default in _DEFAULTS.items():
        if role not in roles and config.get(role, default) is None:
            raise BundleError(
                f"{path}: {role} is null, expected a token such as {default!r}; export the tokenizer again"
            )
        roles.setdefault(role, default)
    ordered = {role: roles[role] for role in (*_ROLES, *roles) if role in roles}
    return SpecialTokens(
        bos=str(roles["bos_token"]),
        eos=str(roles["eos_token"]),
        unk=str(roles["unk_token"]),
        pad=str(roles["pad_token"]),
        added=_in_order([known[index] for index in sorted(known)], tuple(ordered.values()), extra or ()),
    )


def _extra_tokens(config: Mapping[str, Any], path: Path) -> tuple[Token, ...] | None:
    """The special tokens without a role, under either of their two names; None when there is neither."""
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if config.get(key):
            return _token_list(config[key], path, key)
    return () if "extra_special_tokens" in config or "additional_special_tokens" in config else None


def _read_legacy(
    files: Mapping[str, Path], roles: Mapping[str, Token], extra: tuple[Token, ...] | None
) -> tuple[dict[str, Token], tuple[Token, ...] | None, dict[int, AddedToken]]:
    """Merge special_tokens_map.json, which overrides the config, and added_tokens.json into roles, extra and added."""
    path = files.get(_MAP, Path(_MAP))
    said = read_object(files, _MAP)
    roles = {**roles, **{key: _token(said[key], path, key, special=True) for key in said if _is_role(key, said[key])}}
    if "extra_special_tokens" in said:
        more = _token_list(said["extra_special_tokens"], path, "extra_special_tokens", special=True)
        extra = (*(extra or ()), *(token for token in more if token not in (extra or ())))
    special = {str(token) for token in (*(roles[role] for role in _ROLES if role in roles), *(extra or ()))}
    if extra is None and "additional_special_tokens" in said:
        # After reading `special`: transformers knows these by their old name here and adds them as normalized.
        extra = _token_list(said["additional_special_tokens"], path, "additional_special_tokens", special=True)
    return roles, extra, _read_added(files, special)


def _read_added(files: Mapping[str, Path], special: set[str]) -> dict[int, AddedToken]:
    """Read added_tokens.json: text to id."""
    path = files.get(_ADDED, Path(_ADDED))
    known = {}
    for text, index in read_object(files, _ADDED).items():
        is_special = text in special
        known[expect(int, index, path, text)] = AddedToken(text, normalized=not is_special, special=is_special)
    return known


def _read_saved(files: Mapping[str, Path], saved: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Read the list `added_tokens` of tokenizer.json."""
    if _SAVED not in files:
        return {}
    path = files[_SAVED]
    known = {}
    for value in expect(list, saved.get("added_tokens"), path, "added_tokens"):
        fields = dict(expect(dict, value, path, "added_tokens"))
        index = expect(int, fields.pop("id", None), path, "the id of an added token")
        known[index] = _added(fields, path, "added_tokens")
    return known


def _in_order(known: list[AddedToken], special: tuple[Token, ...], extra: Iterable[Token]) -> tuple[AddedToken, ...]:
    """Append missing special and extra tokens to the known ones; every token with a role becomes special."""
    texts = {token.content for token in known}
    tokens: list[Token] = list(known)
    for value in (*special, *extra):
        if str(value) not in texts and value not in tokens:
            tokens.append(value)
    return tuple(_mark(token, {str(value) for value in special}) for token in tokens)


def _mark(token: Token, special: set[str]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if token.content in special:
        token.special = True  # leaves `normalized` as the file has it; AddedToken(special=True) would clear it
    return token


def _is_role(key: str, value: Any) -> bool:
    """Return whether a config entry names a special token; `add_bos_token: true` and null roles do not."""
    return value is not None and (key in _ROLES or (key.endswith("_token") and isinstance(value, str | dict)))


def _token_list(value: Any, path: Path, where: str, *, special: bool = False) -> tuple[Token, ...]:
    return tuple(_token(item, path, where, special=special) for item in expect(list, value or [], path, where))


def _token(value: Any, path: Path, where: str, *, special: bool = False) -> Token:
    if isinstance(value, str):
        return value
    return _added(value, path, where, special=special)


def _added(value: Any, path: Path, where: str, *, special: bool = False) -> AddedToken:
    """Build an AddedToken from its JSON object, {"content": ..., "lstrip": ..., ...}."""
    fields = {key: item for key, item in expect(dict, value, path, where).items() if key != "__type"}
    content = expect(str, fields.pop("content", None), path, f"{where}: content")
    for key, item in fields.items():
        if key not in _FLAGS:
            raise BundleError(f"{path}: {where}: got the unknown field {shorten(key)}, expected {', '.join(_FLAGS)}")
        expect(bool, item, path, f"{where}: {key}")
    return AddedToken(content, **{**fields, **({"special": True} if special else {})})


def _index(key: str, path: Path) -> int:
    if not key.isdecimal() or len(key) > 10:
        raise BundleError(f"{path}: added_tokens_decoder has the key {shorten(key)}, expected an id; export it again")
    return int(key)
