"""Charts as SVG that takes the colours of the page around it."""

import html
import io
import re
import warnings

__all__ = ["draw_svg"]


def draw_svg(figure, *, prefix, alt):
    """Draw a Matplotlib figure as an SVG element of an HTML page; all its ids begin with `prefix`.

    Black becomes the colour of the text and white that of the page, so that the chart follows light and dark; other
    colours stay. Text stays text. `alt` says what the chart shows, in words.
    """
    import matplotlib

    stream = io.StringIO()
    no_metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        # The browser has the letters that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    inside = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    inside = re.sub(r'\bid="', f'id="{prefix}-', inside)
    inside = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", inside)
    inside = re.sub(r"#000000\b", "currentColor", inside)
    inside = re.sub(r"#ffffff\b", "var(--paper)", inside)
    width, height = figure.get_size_inches() * 72
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="--width: {width / 72 * 96:g}px">{inside}</svg>'
    )
