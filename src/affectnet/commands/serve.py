"""`affectnet serve`: the web page and the HTTP API."""

import ipaddress
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from affectnet.config import ServeConfig, settings_of
from affectnet.errors import ConfigError, Faults, Limit, handle_signals
from affectnet.inference.predictor import load
from affectnet.models.model_config import untrained_note
from affectnet.run import MEMORY, temporary_folder
from affectnet.serve.places import Limits
from affectnet.serve.work import MISSING, Service

PASSWORD_VARIABLE: Final = "AFFECTNET_PASSWORD"
_LIMITS: Final[tuple[Limit, ...]] = (
    (
        (
            *("max_mb", "max_video_mb", "max_pixels", "max_seconds", "max_frames", "fps"),
            *("workers", "timeout", "video_timeout"),
        ),
        lambda value: value > 0,
        "above 0",
    ),
    (("waiting",), lambda value: value >= 0, "at least 0"),
    (("streams",), lambda value: value >= 1, "at least 1"),
    (("port",), lambda value: 0 <= value <= 65535, "0 (any free port) to 65535"),
)


def serve(config: ServeConfig) -> int:
    """Serve as `config` specifies until Ctrl-C; return 0.

    Raises `ConfigError`, `RunError` or `WeightsError` before anything is served.
    """
    limits = _limits(config)
    password = read_password(config)
    try:
        from affectnet.serve.api import create_app
        from affectnet.serve.connections import make_server
        from affectnet.serve.guard import Hosts
    except ModuleNotFoundError as error:
        raise ConfigError(MISSING) from error
    listening = _listen(config.host, config.port)
    with (
        handle_signals(_interrupt, [signal.SIGTERM]),
        temporary_folder("serve", _folder_for_uploads(limits)) as folder,
        listening,
    ):
        names = ("device", "provider", "margin", "min_score", "detect_size", "prior", "prior_tau")
        settings = settings_of(config, *names)
        predictor = load(config.model, **settings)
        name = _name(config.model)
        service = Service(predictor, name, limits, folder, config.faces)
        app = create_app(service, password, Hosts(config.host, config.allow_host))
        server = make_server(app, config.proxy)
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if note := untrained_note(predictor.targets):
            print(note)
        warn_if_open(config.host, password)
        print(f"affectnet serve: {address}  model {name}; press Ctrl-C to stop", flush=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        service.stop()
        print("stopped; all uploads are deleted", flush=True)
    return 0


def _folder_for_uploads(limits: Limits) -> Path | None:
    """Return the memory file system if it has room for all uploads that are admitted at once.

    Otherwise, and where TMPDIR names another folder, None: the system's temporary folder.
    """
    room = 2 * (1 + limits.videos_waiting) * limits.video_bytes
    room += 2 * (limits.workers + limits.waiting) * limits.image_bytes
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and "TMPDIR" not in os.environ
    return MEMORY if usable and shutil.disk_usage(MEMORY).free >= room else None


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _limits(config: ServeConfig) -> Limits:
    """Return the limits; raises `ConfigError` that lists every wrong setting."""
    Faults(config, _LIMITS).raise_all()
    return Limits(
        image_bytes=round(config.max_mb * 2**20),
        video_bytes=round(config.max_video_mb * 2**20),
        pixels=config.max_pixels,
        video_seconds=config.max_seconds,
        video_frames=config.max_frames,
        video_fps=config.fps,
        workers=config.workers,
        waiting=config.waiting,
        streams=config.streams,
        timeout=config.timeout,
        video_timeout=config.video_timeout,
    )


def read_password(config: ServeConfig) -> str | None:
    """Return the password from the flag, the file or the environment, or None.

    Raises `ConfigError` where it is empty or cannot be read.
    """
    if config.password is not None and config.password_file is not None:
        raise ConfigError("--password and --password-file are both given; leave one out")
    password, origin = os.environ.get(PASSWORD_VARIABLE), PASSWORD_VARIABLE
    if config.password is not None:
        password, origin = config.password, "--password"
        print(
            "affectnet serve: warning: other users of this machine can see --password in the list "
            f"of processes; use --password-file or the variable {PASSWORD_VARIABLE} instead",
            file=sys.stderr,
        )
    elif config.password_file is not None:
        origin = f"--password-file {config.password_file}"
        try:
            password = config.password_file.read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{origin}: it cannot be read: {error}") from None
    if password is not None and not password.strip():
        raise ConfigError(f"{origin}: the password is empty; give a password, or leave it out")
    return password


def _listen(host: str, port: int) -> socket.socket:
    """Bind before the model is loaded, so that a port in use is reported at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host!r} is not an address of this machine: {error}") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(256)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"--port {port} on {host} cannot be used: {error.strerror}; give another with --port, "
            "or 0 for any free port"
        ) from None
    return listening


def warn_if_open(host: str, password: str | None) -> None:
    """Warn where other machines can connect and there is no password."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and password is None:
        print(
            f"affectnet serve: warning: --host {host} allows connections from other machines, and "
            f"there is no password; set --password-file or the variable {PASSWORD_VARIABLE}",
            file=sys.stderr,
        )


def _name(model: str) -> str:
    """Return the name of a model without its folders; the name of the run for its model/."""
    path = Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name or model
