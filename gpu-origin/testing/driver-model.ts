/** Files of a model that does what a test of a driver asks. Its reference is `predict.py:Runner`. */
const PREDICTOR = `import os
import subprocess
import time

from cog import BaseRunner, Input


class Runner(BaseRunner):
    def run(
        self, how: str = Input(default="echo"), text: str = Input(default="hello"), seconds: float = Input(default=0.0)
    ) -> str:
        time.sleep(seconds)
        if how == "memory":
            held = []
            while True:
                held.append(b"x" * (16 * 1024 * 1024))
        if how == "exit":
            os._exit(3)
        if how == "flood":
            line = b"x" * 999 + b"\\n"
            for _ in range(int(text)):
                os.write(2, line * 100)
        if how == "python":
            done = subprocess.run(["python", "-c", text], capture_output=True, text=True, timeout=60)
            return done.stdout + done.stderr
        return text
`;

const property = (type: string, value: string | number): object => ({ type, default: value });
const SCHEMA = {
  openapi: "3.0.2",
  info: { title: "Cog", version: "0.1.0" },
  paths: { "/predictions": { post: { "x-cog-streaming": true } } },
  components: {
    schemas: {
      Input: {
        title: "Input",
        type: "object",
        properties: { how: property("string", "echo"), text: property("string", ""), seconds: property("number", 0) },
      },
      Output: { title: "Output", type: "string" },
    },
  },
};

export const DRIVER_MODEL: Record<string, string> = {
  "predict.py": PREDICTOR,
  ".cog/openapi_schema.json": JSON.stringify(SCHEMA),
};
