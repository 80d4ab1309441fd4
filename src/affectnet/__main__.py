"""The `affectnet` script and `python -m affectnet`: signals are handled first, then the command."""

import os
import signal
import sys


def run() -> None:
    """Run the command line; a signal while it starts or ends stops it with one line."""
    # Threads that wait for each other sleep: on cores that are shared with other work they would
    # else take the time of the one that they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    from affectnet.cli import Screen, main  # takes a while

    # The names of files are printed in many places, and anyone may have chosen them.
    sys.stdout, sys.stderr = Screen(sys.stdout), Screen(sys.stderr)
    raise SystemExit(main())


def _leave(number: int, _: object) -> None:
    what = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    os.write(2, f"affectnet: error: {what}; nothing that was finished is lost\n".encode())
    os._exit(128 + number)


if __name__ == "__main__":
    run()
