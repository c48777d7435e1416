"""The font of figures, kept in memory while they are drawn."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import vl_convert

VARIABLE = "FONTCONFIG_FILE"
"""Names the file that says where fonts are."""
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")
"""Where they are on Linux."""
NOTHING = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


@cache
def keep_font_in_memory() -> None:
    """Have vl_convert draw with the Liberation Sans that it brings, and with the system's fonts what that lacks.

    Where the system has Liberation Sans too, vl_convert prefers that and opens its file for every single glyph, which
    takes as long as everything else. So it is let look for fonts where there are none, which it does once, before it is
    given the system's. Elsewhere, and where the user says where fonts are, nothing is changed.
    """
    if sys.platform != "linux" or VARIABLE in os.environ:
        return
    with suppress(OSError), TemporaryDirectory() as empty:
        file = Path(empty, "fonts.conf")
        file.write_text(f"<fontconfig><dir>{empty}</dir></fontconfig>")
        os.environ[VARIABLE] = str(file)
        try:
            vl_convert.svg_to_pdf(NOTHING)
        finally:
            del os.environ[VARIABLE]
    for folder in FOLDERS:
        vl_convert.register_font_directory(str(Path(folder).expanduser()))
