"""Frames per second of live streams through the real server, and of the pipeline alone.

    python benchmarks/live.py --streams 1,2,4

Each client sends JPEG frames of 640 x 480 with two drawn faces, as the live tab does: the next one
when the response has arrived. The baseline is the same pipeline without a server, in one thread.
"""

import argparse
import asyncio
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import simplejpeg

from affectnet.data.images import as_pixels
from affectnet.inference.predictor import Predictor, load
from affectnet.inference.video import FrameByFrame
from affectnet.inference.video_reader import Frame
from affectnet.serve.api import create_app
from affectnet.serve.connections import make_server
from affectnet.serve.places import Limits
from affectnet.serve.sample import sample_frames
from affectnet.serve.work import Service


def frames() -> list[bytes]:
    """The frames of the sample video as JPEG files of 640 x 480."""
    ground = (cv2.copyMakeBorder(f, 80, 80, 0, 0, cv2.BORDER_REPLICATE) for f in sample_frames())
    return [simplejpeg.encode_jpeg(pixels, quality=85) for pixels in ground]


def alone(predictor: Predictor, images: list[bytes], seconds: float) -> float:
    """Frames per second of the pipeline without a server."""
    stream, start, count = FrameByFrame(predictor), time.monotonic(), 0
    while (now := time.monotonic() - start) < seconds:
        stream(Frame(count, now, as_pixels(images[count % len(images)])))
        count += 1
    return count / (time.monotonic() - start)


def served(address: str, images: list[bytes], streams: int, seconds: float) -> list[float]:
    """Frames per second of each of several streams."""

    def client(number: int) -> float:
        start, count = time.monotonic(), 0
        with httpx.Client(base_url=address, timeout=30) as session:
            while (now := time.monotonic() - start) < seconds:
                name = f"benchmark-{streams}-{number}"
                answer = session.post(
                    f"/live?stream={name}&time={now:.4f}", content=images[count % len(images)]
                )
                answer.raise_for_status()
                count += 1
        return count / (time.monotonic() - start)

    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(client, range(streams)))


def main() -> None:
    """Print a line for the pipeline alone and one per number of streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="1,2,4")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    predictor, images = load(), frames()
    alone(predictor, images, 1.0)  # the first frames load the detector
    base = alone(predictor, images, given.seconds)
    print(f"pipeline alone: {base:.1f} frames per second")
    with tempfile.TemporaryDirectory() as folder:
        service = Service(predictor, "cvnet", Limits(streams=64), Path(folder))
        server = make_server(create_app(service), port=0)
        thread = threading.Thread(target=asyncio.run, args=(server.serve(),), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        for streams in map(int, given.streams.split(",")):
            rates = served(address, images, streams, given.seconds)
            total = sum(rates)
            print(
                f"{streams} streams: {min(rates):.1f} to {max(rates):.1f} frames per second each, "
                f"{total:.1f} together, {total / base:.2f} of the pipeline alone"
            )
        server.should_exit = True
        thread.join(15)


if __name__ == "__main__":
    main()
