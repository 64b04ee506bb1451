"""`generate --resume`: files equal to those of single commands, what is skipped, and what is refused."""

import json

import pytest
from click.testing import CliRunner

from diffoundry.runtime.cli import bulk_command
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.errors import InputError

PROMPTS = ("a fox", "a rocket", "a red apple")


@pytest.fixture
def generate(emoji_bundle, tmp_path, monkeypatch):
    """Run in a folder with a file of prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))

    def run(*options):
        result = CliRunner().invoke(command, [str(emoji_bundle), "--steps", "1", *options])
        if isinstance(result.exception, InputError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return run


BULK = ("--prompts", "prompts.txt", "-o", "many", "--resume")


def test_an_interrupted_bulk_goes_on_where_it_stopped(generate, tmp_path, monkeypatch):
    write, calls = bulk_command.generate_item, []

    def interrupted(prepared, folder, number):
        calls.append(number)
        if number == 1 and len(calls) == 2:
            raise InputError("stopped here")
        write(prepared, folder, number)

    monkeypatch.setattr(bulk_command, "generate_item", interrupted)
    with pytest.raises(InputError, match="stopped here"):
        generate(*BULK, "--seed", "7")
    first = tmp_path / "many/000001.png"
    made = first.stat().st_mtime_ns
    result = generate(*BULK)  # the seed is the folder's
    assert "many: 1 of 3 prompts are finished\n" in result.output
    assert "many: 2 of 3 prompts generated in " in result.output
    assert calls == [0, 1, 1, 2]
    assert first.stat().st_mtime_ns == made
    names = [f"00000{number}.png" for number in (1, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == [*names, "manifest.jsonl", "settings.json"]
    lines = [json.loads(line) for line in (tmp_path / "many/manifest.jsonl").read_text().splitlines()]
    assert lines == [
        {"file": name, "prompt": prompt, "seed": 7 + number}
        for number, (name, prompt) in enumerate(zip(names, PROMPTS, strict=True))
    ]
    for line in lines:
        generate(line["prompt"], "--seed", str(line["seed"]), "-o", "alone.png")
        assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "many" / line["file"]).read_bytes()
    with (tmp_path / "prompts.txt").open("a") as stream:
        stream.write("\na fox\n")
    report = json.loads(generate(*BULK, "--json").stdout)
    assert (report["generated"], report["skipped"]) == (1, 3)
    assert report["images"][3] == {"file": "many/000004.png", "prompt": "a fox", "seed": 10}
    for options, message in (
        (("--seed", "8"), "--output many: was begun with the seed 7, got 8; repeat the first command, or choose"),
        (("--eta", "0.5"), "--output many: was begun with the options .*; repeat the first command"),
        (("--seed", "1", "--seed", "2"), "--seed: got 2 seeds with --resume, expected one; each image adds 1 to it"),
    ):
        with pytest.raises(InputError, match=message):
            generate(*BULK, *options)
    (tmp_path / "prompts.txt").write_text("a fox\na cat\n")
    with pytest.raises(InputError, match="was begun with the prompt 'a rocket' for 000002.png, got 'a cat'; add"):
        generate(*BULK)
    (tmp_path / "many/manifest.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"--output many: its manifest.jsonl cannot be read \(.*\); choose another"):
        generate(*BULK)
    for text, message in (("{", r"settings.json cannot be read \("), ("[]", "settings.json is not one of --resume")):
        (tmp_path / "many/settings.json").write_text(text)
        with pytest.raises(InputError, match=f"--output many: its {message}"):
            generate(*BULK)
    (tmp_path / "many/settings.json").unlink()
    with pytest.raises(InputError, match="many: has a file 000001.png, but no settings.json of an earlier --resume"):
        generate(*BULK)


def test_several_images_of_each_prompt(generate, tmp_path):
    generate(*BULK, "--seed", "0", "--num-images", "2")
    lines = [json.loads(line) for line in (tmp_path / "many/manifest.jsonl").read_text().splitlines()]
    assert [(line["file"], line["seed"]) for line in lines[:3]] == [
        ("000001-0.png", 0), ("000001-1.png", 1), ("000002-0.png", 2),
    ]  # fmt: skip
    generate("a rocket", "--num-images", "2", "--seed", "2", "--seed", "3", "-o", "alone.png")
    for number in (0, 1):
        assert (tmp_path / f"alone-{number}.png").read_bytes() == (tmp_path / f"many/000002-{number}.png").read_bytes()


def test_refusals(generate, tmp_path):
    for options, message in (
        (("a fox", "-o", "many", "--resume"), "--resume: got no --prompts, expected a file of prompts; pass it, or"),
        ((*BULK, "-o", "x.png"), "--resume: got the output x.png, expected a folder; pass -o FOLDER"),
        (("--prompts", "prompts.txt", "--resume"), "--resume: got the output out-0001.png, expected a folder"),
        ((*BULK, "--heat-map", "fox"), "--heat-map: got it with --resume, which writes images alone; leave one"),
    ):
        with pytest.raises(InputError, match=message):
            generate(*options)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_a_note_is_told_once(generate):
    result = generate(*BULK, "--steps", "2", "--cache", "taylor:1")
    assert result.output.count("with --cache the image is not that of the exact loop") == 1
