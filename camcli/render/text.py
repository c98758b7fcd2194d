"""Text drawn into pictures, shortened to the pixels that there are."""

from __future__ import annotations

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def ellipsize(text: str, width: float, font: Font, *, keep_end: bool = False) -> str:
    """``text``, cut and marked with an ellipsis where it is wider than ``width`` pixels in ``font``.

    The beginning is kept. With ``keep_end`` the end is kept instead, because names of layers differ at their end.
    """
    if font.getlength(text) <= width:
        return text
    kept = text
    while kept:
        kept = kept[1:] if keep_end else kept[:-1]
        shortened = f"…{kept}" if keep_end else f"{kept}…"
        if font.getlength(shortened) <= width:
            return shortened
    return "…"
