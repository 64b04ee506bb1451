"""One row a name, one column an image: the sheets of the pages on LoRAs and ControlNets."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

SCALE, LABEL = 2, 16


def write_sheet(rows: Mapping[str, Sequence[Image.Image]], path: str) -> None:
    """Write images of one size, enlarged, each row with its name below."""
    first = next(iter(rows.values()))
    side = SCALE * first[0].width
    sheet = Image.new("RGB", (len(first) * side, len(rows) * (side + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for down, (name, images) in enumerate(rows.items()):
        top = down * (side + LABEL)
        draw.text((4, top + side + 1), name, fill="black", font_size=11)
        for across, image in enumerate(images):
            sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (across * side, top))
    sheet.save(path)
    print(f"{path}: {len(rows)} rows of {len(first)} images")
