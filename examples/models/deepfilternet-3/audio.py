"""Any audio or video file to 48 kHz samples, and back to a WAV file."""

import wave

import av
import numpy as np

RATE = 48_000


def decode(path, seconds_max):
    """float32 (channels, n), one or two channels. Raises ValueError, with a text for the caller, on what is no audio, broken, empty or too long."""
    pieces, count = [], 0
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore") as file:
            if not file.streams.audio:
                raise ValueError("audio holds no sound track")
            track = file.streams.audio[0]
            layout = "mono" if track.codec_context.channels == 1 else "stereo"
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=RATE)
            for frame in file.decode(track):
                for piece in resampler.resample(frame):
                    pieces.append(piece.to_ndarray())
                    count += pieces[-1].shape[1]
                # Counted while decoding: a small file can hold many hours.
                if count > seconds_max * RATE:
                    raise ValueError(f"audio is longer than {seconds_max // 60} minutes: cut it into parts")
            for piece in resampler.resample(None):
                pieces.append(piece.to_ndarray())
    except (av.error.InvalidDataError, av.error.EOFError):
        # A file that breaks off is used as far as it goes.
        if not pieces:
            raise ValueError("audio cannot be read: give WAV, FLAC, MP3, Ogg, M4A, or a video with sound") from None
    except av.error.FFmpegError as error:
        raise ValueError(f"audio cannot be read: {error.strerror or error}") from None
    if not pieces:
        raise ValueError("audio has no samples")
    return np.concatenate(pieces, 1)


def write_wav(path, samples):
    """float32 (channels, n) in -1..1 as 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").T.tobytes())
