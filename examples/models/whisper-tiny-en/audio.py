"""Any audio or video file to 16 kHz mono samples, no more of them than asked for."""

import av
import numpy as np

RATE = 16_000


def decode(path, seconds_max):
    """int16 samples. Raises ValueError, with a text for the caller, on what is no audio, broken, empty or too long."""
    pieces, count = [], 0
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore") as file:
            if not file.streams.audio:
                raise ValueError("audio holds no sound track")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
            for frame in file.decode(file.streams.audio[0]):
                for piece in resampler.resample(frame):
                    pieces.append(piece.to_ndarray()[0])
                    count += len(pieces[-1])
                # Counted while decoding: a small file can hold many hours.
                if count > seconds_max * RATE:
                    raise ValueError(f"audio is longer than {seconds_max // 60} minutes: cut it into parts")
            for piece in resampler.resample(None):
                pieces.append(piece.to_ndarray()[0])
    except (av.error.InvalidDataError, av.error.EOFError):
        # A file that breaks off is used as far as it goes.
        if not pieces:
            raise ValueError("audio cannot be read: give WAV, FLAC, MP3, Ogg, M4A, or a video with sound") from None
    except av.error.FFmpegError as error:
        raise ValueError(f"audio cannot be read: {error.strerror or error}") from None
    if not pieces:
        raise ValueError("audio has no samples")
    return np.concatenate(pieces)
