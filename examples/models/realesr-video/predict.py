"""Enlarges a video two, three or four times, frame by frame, with the network that Real-ESRGAN's authors made for drawn video."""

import tempfile
from pathlib import Path as FilePath

import av
import numpy as np
from cog import BaseRunner, Input, Path

from networks import Network

# Pixels of all frames of the input together: about ten minutes on one core.
PIXELS_MAX = 150_000_000
SECONDS_MAX = 60
SIDE_MIN, SIDE_MAX = 16, 1280
# A tile takes about a second, which is how long a cancel may have to wait.
TILE = 192
RATE_MAX = 120


class Runner(BaseRunner):
    def setup(self) -> None:
        self.networks = {scale: Network(f"realesr-animevideov3-x{scale}", scale, TILE) for scale in (2, 3, 4)}

    def run(
        self,
        video: Path = Input(
            description="MP4, WebM, MOV, MKV, AVI or GIF of at most a minute and 150 million pixels in all its frames: such as 10 s of 640 x 360 at 25 a second."
        ),
        scale: int = Input(description="How many times wider and higher the result is.", choices=[2, 3, 4], default=2),
        quality: int = Input(description="H.264's rate factor: 18 can hardly be told from the original, 28 is small.", default=20, ge=10, le=40),
    ) -> Path:
        path = FilePath(tempfile.mkdtemp()) / "upscaled.mp4"
        try:
            with av.open(str(video), metadata_errors="ignore") as source:
                if not source.streams.video:
                    raise ValueError("video holds no pictures")
                with av.open(str(path), "w") as target:
                    enlarge(source, target, self.networks[scale], {"crf": str(quality), "preset": "veryfast", "threads": "1"})
        except (av.error.InvalidDataError, av.error.EOFError):
            raise ValueError("video cannot be read: give MP4, WebM, MOV, MKV, AVI or GIF") from None
        except av.error.FFmpegError as error:
            raise ValueError(f"video cannot be read: {error.strerror or error}") from None
        return Path(path)


def enlarge(source, target, network, options):
    """Writes the pictures of `source` to `target`, enlarged, and its first sound track unchanged where MP4 can hold it."""
    pictures = source.streams.video[0]
    pictures.thread_type = "NONE"
    rate = pictures.average_rate
    if rate is None or not 0 < rate <= RATE_MAX:
        rate = 25
    size = check_size(pictures.width, pictures.height)
    result = target.add_stream("libx264", rate=rate, options=options)
    # H.264 halves the colour, so sides are even.
    result.width, result.height = (side * network.factor // 2 * 2 for side in size)
    result.pix_fmt = "yuv420p"
    sound = next((track for track in source.streams.audio if track.codec_context.name in {"aac", "mp3", "ac3", "opus"}), None)
    copied = target.add_stream_from_template(sound) if sound else None
    expected = pictures.frames or "unknown"
    done = 0
    for packet in source.demux([track for track in (pictures, sound) if track]):
        if packet.stream is sound:
            if packet.dts is not None and packet.pts * packet.time_base <= SECONDS_MAX:
                packet.stream = copied
                target.mux(packet)
            continue
        for frame in packet.decode():
            done += 1
            check_length(done, rate, size)
            pixels = network.enlarge(frame.reformat(*size, format="rgb24").to_ndarray(), lambda *_: None)
            larger = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[: result.height, : result.width]), format="rgb24")
            target.mux(result.encode(larger))
            print(f"frame {done} of {expected}")
    if done == 0:
        raise ValueError("video has no pictures that can be read")
    target.mux(result.encode(None))


def check_size(width, height):
    if min(width, height) < SIDE_MIN or max(width, height) > SIDE_MAX:
        raise ValueError(f"video is {width} x {height}; each side must have {SIDE_MIN} to {SIDE_MAX} pixels")
    return width, height


def check_length(frames, rate, size):
    """Counted while decoding: what a file says of itself need not be true."""
    if frames / rate > SECONDS_MAX:
        raise ValueError(f"video is longer than {SECONDS_MAX} s: cut it into parts")
    if frames * size[0] * size[1] > PIXELS_MAX:
        raise ValueError(f"video has more than {PIXELS_MAX // 1_000_000} million pixels in all its frames: make it shorter or smaller")
