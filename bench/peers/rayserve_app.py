"""A no-op and a model that takes 20 ms, in Ray Serve."""

import asyncio
import sys
import time

import ray
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
class Service:
    async def __call__(self, request):
        body = (await request.json())["input"]
        if body.get("seconds"):
            await asyncio.sleep(body["seconds"])
        return {"output": body["text"]}


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=2, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Service.bind(), route_prefix="/predict")
    while True:
        time.sleep(3600)
