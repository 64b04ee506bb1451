"""Text files of prompts: byte order marks, line ends, and other encodings."""

import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.prompt_file import read_prompt_file


def test_lines(tmp_path):
    path = tmp_path / "prompts.txt"
    for data, expected in (
        ("a cat\na dog\n".encode("utf-8-sig"), ["a cat", "a dog"]),
        (b"a cat\r\n\r\n  a dog \r\n", ["a cat", "a dog"]),
        (b"a cat\ra dog", ["a cat", "a dog"]),
        ("a cat\u2028on a mat\x0b, 猫\n".encode(), ["a cat\u2028on a mat\x0b, 猫"]),
        (b"", []),
    ):
        path.write_bytes(data)
        assert read_prompt_file(path, "--prompts") == expected


def test_what_is_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    for data, message in (
        ("a cat".encode("utf-16"), r"cannot be read \(it is UTF-16\); expected a text file in UTF-8, save it as that"),
        (b"a" * (2**24 + 1), "got more than 16777216 bytes, expected a text file with prompts"),
        (
            "a caf\u00e9".encode("latin-1"),
            r"cannot be read \('utf-8' codec can't decode .*\); expected a text file in UTF-8",
        ),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"--prompts .*prompts.txt: {message}"):
            read_prompt_file(path, "--prompts")
    with pytest.raises(InputError, match=r"--prompts .*none.txt: cannot be read \(No such file or directory\)"):
        read_prompt_file(tmp_path / "none.txt", "--prompts")
