"""A window that shows a camera or a video with its faces while it is predicted on, by tkinter."""

import time
from collections import deque
from typing import Any, Final

from PIL import Image

from affectnet.data.images import Pixels
from affectnet.errors import ConfigError
from affectnet.inference.drawing import annotate
from affectnet.inference.panels import DrawnImage, Traces

LARGEST: Final = 1280
"""Long side of the picture in the window at most, in pixels."""


class Window:
    """Shows frames with boxes, labels, the circumplex and curves; used from the main thread.

    Args:
        title: of the window.

    Attributes:
        closed: whether the user has closed it.
        rate: frames per second, of the last 20 that were shown.

    Raises `ConfigError` as `check_display`.
    """

    def __init__(self, title: str) -> None:
        self._root, tkinter = _open()
        self._failure = tkinter.TclError
        self._root.deiconify()
        self._root.title(f"affectnet: {title}")
        self._root.configure(background="#111820")
        self._root.resizable(width=False, height=False)
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        self._picture = tkinter.Label(self._root, borderwidth=0)
        self._picture.pack()
        self._line = tkinter.Label(
            self._root, anchor="w", padx=8, pady=3, background="#111820", foreground="#ced6de"
        )
        self._line.pack(fill="x")
        self.closed, self.rate = False, 0.0
        self._shown: deque[float] = deque(maxlen=20)
        self._traces = Traces()
        self._photo: Any = None

    def show(self, result: DrawnImage, pixels: Pixels) -> None:
        """Show the next frame; does nothing after the window was closed."""
        if self.closed:
            return
        from PIL import ImageTk

        self._traces.add(result)
        drawn = annotate(pixels, result, self._traces, largest=LARGEST)
        self._shown.append(time.monotonic())
        past = self._shown[-1] - self._shown[0]
        self.rate = (len(self._shown) - 1) / past if past > 0 else 0.0
        try:
            self._photo = ImageTk.PhotoImage(Image.fromarray(drawn), master=self._root)
            self._picture.configure(image=self._photo)
            self._line.configure(
                text=f"{self.rate:.1f} frames per second; close the window to stop"
            )
            self._root.update()
        except self._failure:  # the display is gone
            self.closed = True

    def close(self) -> None:
        """Close the window."""
        if not self.closed:
            self.closed = True
            self._root.destroy()

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_display() -> None:
    """Raise `ConfigError` where no window can be opened."""
    root, _ = _open()
    root.destroy()


def _open() -> tuple[Any, Any]:
    """Return an empty window and the module tkinter."""
    try:
        import tkinter

        from PIL import ImageTk  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--show needs tkinter, which is not installed with this Python; install it (Debian and "
            "Ubuntu: apt-get install python3-tk), or use the live tab of `affectnet serve`"
        ) from None
    try:
        root = tkinter.Tk(className="affectnet")
    except tkinter.TclError as error:
        raise ConfigError(
            f"--show needs a display: {error}; run it on a desktop, or use the live tab of "
            "`affectnet serve` in a browser"
        ) from None
    root.withdraw()
    return root, tkinter
