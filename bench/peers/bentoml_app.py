"""A no-op and a model that takes 20 ms, in BentoML."""

import asyncio

import bentoml


@bentoml.service(workers=1, traffic={"timeout": 60})
class Service:
    @bentoml.api
    async def predict(self, input: dict) -> dict:
        if input.get("seconds"):
            await asyncio.sleep(input["seconds"])
        return {"output": input["text"]}
