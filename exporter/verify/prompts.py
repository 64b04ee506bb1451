"""Default prompts of `verify`: short, concrete, and known to small models too."""

__all__ = ["PROMPTS"]

PROMPTS = (
    "red apple",
    "cat face",
    "rocket",
    "snowman",
    "soccer ball",
    "rainbow",
    "pizza",
    "sailboat",
    "light bulb",
    "guitar",
    "cactus",
    "hot beverage",
    "teddy bear",
    "christmas tree",
    "blue book",
    "crown",
)
"""Things of many shapes and colours, each a label of the embedded model and a word that Stable Diffusion knows."""
