"""The page at /docs: the HTTP API in curl, without scripts from elsewhere."""

import html

from affectnet.inference.app_limits import Limits


def docs_page(address: str, limits: Limits) -> str:
    """Return the page for a server at this address."""
    at = html.escape(address)
    rows = [
        ("picture", f"{limits.picture_bytes / 2**20:,.0f} MB, {limits.pixels:,} pixels"),
        (
            "video",
            f"{limits.video_bytes / 2**20:,.0f} MB, {limits.video_seconds:g} s, "
            f"{limits.video_frames:,} frames looked at",
        ),
        ("at a time", f"{limits.workers} pictures and {limits.waiting} more waiting; one video"),
        ("time", f"{limits.timeout:g} s for a picture, {limits.video_timeout:g} s for a video"),
    ]
    table = "".join(f"<tr><th>{name}</th><td>{told}</td></tr>" for name, told in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>affectnet: HTTP API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 46rem; margin: 3rem auto; padding: 0 1.2rem; font: 16px/1.6 system-ui,
  sans-serif; background: light-dark(#fff, #0e1318); color: light-dark(#17212b, #e6ebf0); }}
h1, h2 {{ letter-spacing: -.01em; line-height: 1.25; }}
h2 {{ margin-top: 2.2rem; font-size: 1.15rem; }}
pre {{ padding: .8rem 1rem; border-radius: 10px; overflow-x: auto; font-size: .87rem;
  background: light-dark(#f2f5f8, #182029); }}
th {{ text-align: left; padding: .2rem 1.4rem .2rem 0; font-weight: 600; }}
a {{ color: light-dark(#0067a3, #6cbcf0); }}
</style></head><body>
<h1>HTTP API</h1>
<p><a href="./">Back to the page</a> · <a href="openapi.json">openapi.json</a></p>
<h2>POST /predict</h2>
<p>A picture (JPEG, PNG, BMP, WebP, GIF, TIFF, PPM) in a form or as bare bytes. The answer is JSON:
every face with its box, landmarks, probabilities, valence and arousal. <code>?faces=none</code>
takes the picture for one face that is cropped already.</p>
<pre>curl -F file=@photo.jpg {at}/predict
curl --data-binary @photo.jpg {at}/predict</pre>
<h2>POST /predict/video</h2>
<p>The same for each frame looked at, with its time and the number of each person.
<code>?seconds=10</code> looks at the first ten seconds, <code>?fps=5</code> at five frames of a
second.</p>
<pre>curl -F file=@film.mp4 "{at}/predict/video?fps=5"</pre>
<h2>GET /health</h2>
<p>Answers at once, also under full load, and without the password.</p>
<h2>Limits</h2>
<table>{table}</table>
<p>Beyond them the answer is 413, 422 or 503 (with <code>Retry-After</code>) and JSON:
<code>error</code> says what was given, what is allowed and what to do. With a password, send
<code>Authorization: Bearer PASSWORD</code>, or Basic with any user name.</p>
</body></html>"""
