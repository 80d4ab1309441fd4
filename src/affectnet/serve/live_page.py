"""The live tab of the page: what `live.js` fills with the results of each frame."""

import html
import json

from affectnet.figures.style import PERSON_COLOURS
from affectnet.inference.panels import CURVE_SECONDS
from affectnet.inference.result_files import FILM_COLUMNS, FORMATS
from affectnet.labels import COLOURS
from affectnet.serve.overlay import circumplex_svg


def live_html() -> str:
    """Return the tab without results."""
    settings = {
        "seconds": CURVE_SECONDS,
        "persons": PERSON_COLOURS,
        "expressions": COLOURS,
        "head": FORMATS[".csv"](FILM_COLUMNS).head.decode(),
    }
    return (
        f'<div class="an-live" data-settings="{html.escape(json.dumps(settings))}">'
        '<p class="an-actions">'
        '<button type="button" data-do="camera">Start the camera</button>'
        '<button type="button" data-do="sample">Use the sample video</button>'
        '<button type="button" data-do="stop" disabled>Stop</button>'
        '<span class="an-rate" role="status"></span></p>'
        '<p class="an-note" role="alert" hidden></p>'
        '<div class="an-result" data-faces="0">'
        '<figure class="an-image" style="--ratio:1.3333"><canvas width="640" height="480" '
        'aria-label="The camera with the faces drawn in"></canvas>'
        '<svg class="an-boxes" viewBox="0 0 640 480"></svg></figure>'
        f'<div class="an-plane"><h3>Now</h3>{circumplex_svg(())}</div>'
        '<figure class="an-curve"><svg class="an-rolling" role="img" '
        f'aria-label="Valence, arousal and expression in the last {CURVE_SECONDS:g} seconds">'
        '</svg><figcaption class="an-legend"></figcaption></figure>'
        '<p class="an-saves"><span>Download</span>'
        '<button type="button" class="an-save" data-save="csv" disabled>faces.csv</button>'
        '<button type="button" class="an-save" data-save="json" disabled>faces.json</button>'
        '<button type="button" class="an-save" data-save="jpg" disabled>annotated.jpg</button>'
        '<span class="an-kept"></span></p>'
        "</div></div>"
    )
