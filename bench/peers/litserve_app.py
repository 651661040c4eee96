"""A no-op and a model that takes 20 ms, in LitServe."""

import asyncio
import sys

import litserve


class Api(litserve.LitAPI):
    def setup(self, device):
        pass

    async def decode_request(self, request):
        return request["input"]

    async def predict(self, request):
        if request.get("seconds"):
            await asyncio.sleep(request["seconds"])
        return request["text"]

    async def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(enable_async=True), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
