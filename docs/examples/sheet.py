"""One row a name, one column a picture: the sheets of the pages on LoRAs and ControlNets."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

SCALE, LABEL = 2, 16


def write_sheet(rows: Mapping[str, Sequence[Image.Image]], path: str) -> None:
    """Write pictures of one size, enlarged, each row with its name below."""
    first = next(iter(rows.values()))
    side = SCALE * first[0].width
    sheet = Image.new("RGB", (len(first) * side, len(rows) * (side + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for down, (name, pictures) in enumerate(rows.items()):
        top = down * (side + LABEL)
        draw.text((4, top + side + 1), name, fill="black", font_size=11)
        for across, picture in enumerate(pictures):
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (across * side, top))
    sheet.save(path)
    print(f"{path}: {len(rows)} rows of {len(first)} pictures")
