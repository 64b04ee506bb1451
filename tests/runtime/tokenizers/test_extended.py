"""Words of several vectors in any case: the ids that diffusers gives to the word in lower case."""

from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTokenizer

from diffoundry.runtime.tokenizers.clip import ClipTokenizer
from diffoundry.runtime.tokenizers.extended import ExtendedTokenizer


def test_case_does_not_count(emoji_folder):
    """diffusers itself uses only the first vector of a word with capitals, because transformers' tokens have none."""
    theirs = CLIPTokenizer.from_pretrained(emoji_folder)
    theirs.add_tokens(["easynegative", "easynegative_1", "easynegative_2"])
    base = ClipTokenizer.from_folder(emoji_folder)
    ours = ExtendedTokenizer(base, {"EasyNegative": 3}, vocabulary=base.size)
    text = "a fox, easynegative and a cat"
    written = TextualInversionLoaderMixin().maybe_convert_prompt(text, theirs)
    expected = theirs(written, add_special_tokens=False).input_ids
    for word in ("EasyNegative", "easynegative", "EASYNEGATIVE"):
        assert ours.ids(text.replace("easynegative", word)) == expected, word
    assert ours.words_in("a fox") == []
