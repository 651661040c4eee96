"""PyPI `replicate` 1.x: every method it has, blocking and asynchronous."""

import asyncio
import http.server
import io
import os
import pathlib
import tempfile
import threading
import time
import zipfile

import httpx
import replicate
from checks import check, equal, raised, run_checks, wait_for
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.pagination import async_paginate, paginate
from replicate.stream import EventSource, ServerSentEvent
from replicate.webhook import InvalidSignatureError, Webhooks

# REPLICATE_API_TOKEN and REPLICATE_BASE_URL are all that is set.
client = replicate.Client()
ACCOUNT = os.environ["ACCOUNT"]
URL = os.environ["COGWAY_URL"]
IS_HTTPS = os.environ["COGWAY_PROTOCOL"] == "https"
TOKENS = [f"token {i}\n" for i in range(10)]


def noop_version():
    return client.models.get("cogway/noop").latest_version.id


def until_ended(thing):
    def ended():
        thing.reload()
        return thing.status in ("succeeded", "failed", "canceled")

    wait_for(f"the end of {thing.id}", ended)
    return thing


def until_running(thing):
    def running():
        thing.reload()
        return thing.status == "processing"

    wait_for(f"{thing.id} runs", running)


@check
def account_and_hardware():
    account = client.accounts.current()
    equal((account.type, account.username, account.name), ("user", ACCOUNT, ACCOUNT))
    assert "cpu" in [hardware.sku for hardware in client.hardware.list()]


@check
def models_and_versions():
    names = [f"{model.owner}/{model.name}" for page in paginate(client.models.list) for model in page]
    assert "cogway/noop" in names and "cogway/tokens" in names, names
    model = client.models.get("cogway", "noop")
    equal((model.visibility, model.latest_version.id), ("public", noop_version()))
    equal([version.id for version in model.versions.list()], [noop_version()])
    version = model.versions.get(noop_version())
    assert "Input" in version.openapi_schema["components"]["schemas"]
    wait_for("the model in search", lambda: "noop" in [found.name for found in client.models.search("noop")])


@check
def a_model_is_created_and_deleted():
    made = client.models.create(ACCOUNT, "shelf", hardware="cpu", visibility="private", description="a shelf")
    equal((made.owner, made.name, made.description, made.latest_version), (ACCOUNT, "shelf", "a shelf", None))
    made.reload()
    equal(client.models.delete(ACCOUNT, "shelf"), True)
    equal(raised(ReplicateError, lambda: client.models.get(ACCOUNT, "shelf")).status, 404)


@check
def collections():
    slug = os.environ["COLLECTION"]
    assert slug in [collection.slug for collection in client.collections.list()]
    equal([model.name for model in client.collections.get(slug)], ["noop", "tokens"])


@check
def predictions_are_created_in_every_way():
    made = client.predictions.create(version=noop_version(), input={"text": "at once"})
    made.wait()
    equal((made.status, made.output, made.model), ("succeeded", "at once", "cogway/noop"))
    waited = client.predictions.create(version=noop_version(), input={"text": "waited"}, wait=True)
    equal((waited.status, waited.output), ("succeeded", "waited"))
    by_model = client.models.predictions.create("cogway/noop", {"text": "model"}, wait=30)
    equal(by_model.output, "model")
    equal(client.predictions.create(model="cogway/noop", input={}).model, "cogway/noop")
    cut = client.models.predictions.create("cogway/tokens", {"count": 20, "delay_ms": 100}, wait=1)
    equal((cut.status, cut.output), ("starting", None))
    equal(until_ended(cut).status, "succeeded")
    assert cut.metrics["predict_time"] > 0


@check
def run_waits_polls_and_iterates():
    equal(client.run("cogway/noop", {"text": "hi"}), "hi")
    equal(replicate.run("cogway/noop", input={"text": "module"}), "module")
    equal(client.run(f"cogway/noop:{noop_version()}", {"text": "version"}), "version")
    equal(client.run("cogway/noop", {"text": "polled"}, wait=False), "polled")
    tokens = {"count": 10, "delay_ms": 100}
    reference = f"cogway/tokens:{client.models.get('cogway/tokens').latest_version.id}"
    # A version tells that its output comes piece by piece: these are iterators, without one it is the list.
    output = client.run(reference, tokens)
    assert not isinstance(output, list)
    equal(list(output), TOKENS)
    equal(list(client.run(reference, tokens, wait=False)), TOKENS)
    equal(list(client.run(reference, {**tokens, "delay_ms": 200}, wait=1)), TOKENS)
    equal(client.run("cogway/tokens", {**tokens, "delay_ms": 200}, wait=1), TOKENS)


@check
async def the_asynchronous_client_does_the_same():
    equal(await client.async_run("cogway/noop", {"text": "hi"}), "hi")
    events = [event async for event in await client.async_stream("cogway/tokens", {"count": 3})]
    equal([str(event) for event in events if event.event == ServerSentEvent.EventType.OUTPUT], TOKENS[:3])
    made = await asyncio.gather(
        *(client.models.predictions.async_create("cogway/noop", {"text": str(i)}, wait=True) for i in range(5))
    )
    equal([prediction.output for prediction in made], ["0", "1", "2", "3", "4"])
    equal((await client.accounts.async_current()).username, ACCOUNT)
    equal((await client.models.async_get("cogway/noop")).latest_version.id, noop_version())
    equal([model.name for model in (await client.collections.async_get(os.environ["COLLECTION"]))], ["noop", "tokens"])
    assert (await client.webhooks.default.async_secret()).key.startswith("whsec_")
    file = await client.files.async_create(io.BytesIO(b"abc"), filename="a.txt")
    assert file.id in [each.id for each in await client.files.async_list()]
    equal(await client.files.async_delete(file.id), True)
    wanted = {"model": "cogway/noop", "version": noop_version(), "hardware": "cpu", "min_instances": 0, "max_instances": 1}
    await client.deployments.async_create(name="brief", **wanted)
    assert "brief" in [each.name for each in await client.deployments.async_list()]
    equal(await client.deployments.async_delete(ACCOUNT, "brief"), True)
    equal(list(await client.trainings.async_list()), [])
    running = await client.models.predictions.async_create("cogway/tokens", {"count": 1000, "delay_ms": 100})
    await running.async_cancel()
    equal(running.status, "canceled")
    output = await client.async_run("cogway/files", {"name": "out.txt", "size": 3})
    if IS_HTTPS:
        equal(await output.aread(), b"111")


@check
async def lists_go_on_over_pages():
    pager = replicate.Client(os.environ["PAGER_TOKEN"])
    pages = [len(page) for page in paginate(pager.predictions.list)]
    ids = {prediction.id async for page in async_paginate(pager.predictions.async_list) for prediction in page}
    equal((pages[:2], sum(pages), len(ids)), ([100, 100], *[int(os.environ["PAGED_PREDICTIONS"])] * 2))


@check
def cancel_while_running_and_after_the_end():
    running = client.models.predictions.create("cogway/tokens", {"count": 1000, "delay_ms": 100})
    until_running(running)
    running.cancel()
    equal(running.status, "canceled")
    ended = client.predictions.create(version=noop_version(), input={}, wait=True)
    equal(client.predictions.cancel(ended.id).status, "succeeded")


@check
def a_model_that_fails_raises_its_words():
    error = raised(ModelError, lambda: client.run("cogway/tokens", {"fail_at": 2}))
    assert "broke in the middle" in str(error), error
    equal(error.prediction.status, "failed")
    assert "begun" in error.prediction.logs


@check
def a_stream_gives_text_and_its_end():
    events = list(client.stream("cogway/tokens", input={"text": "a b\n\nc", "delay_ms": 10}))
    output = [event.data for event in events if event.event == ServerSentEvent.EventType.OUTPUT]
    equal(output, ["a", " ", "b", "\n", "\n", "c"])
    equal((events[-1].event, events[-1].data), (ServerSentEvent.EventType.DONE, "{}"))
    made = client.models.predictions.create("cogway/tokens", {"count": 10})
    streamed = [event for event in made.stream() if event.event == ServerSentEvent.EventType.OUTPUT]
    equal("".join(map(str, streamed)), "".join(TOKENS))
    error = raised(RuntimeError, lambda: list(client.stream("cogway/tokens", input={"fail_at": 1})))
    assert "broke in the middle" in str(error), error


@check
def a_stream_goes_on_after_its_last_event():
    made = client.models.predictions.create("cogway/tokens", {"count": 10, "delay_ms": 50})
    read = []
    for event in made.stream():
        if event.event == ServerSentEvent.EventType.OUTPUT:
            read.append(event)
            if len(read) == 4:
                break
    headers = {"Accept": "text/event-stream", "Last-Event-ID": read[-1].id}
    with httpx.stream("GET", made.urls["stream"], headers=headers) as response:
        rest = [event for event in EventSource(client, response) if event.event == ServerSentEvent.EventType.OUTPUT]
    equal([event.data for event in read + rest], TOKENS)


@check
def files_come_as_objects_over_https():
    output = client.run("cogway/files", {"name": "out.txt", "size": 12})
    equal(isinstance(output, FileOutput), IS_HTTPS)
    assert str(output).startswith(f"{URL}/outputs/"), output
    equal(httpx.get(str(output)).text, "1" * 12)
    plain = client.run("cogway/files", {"name": "out.txt", "size": 12}, use_file_output=False)
    equal(type(plain), str)
    if not IS_HTTPS:
        return
    equal(output.read(), b"1" * 12)
    equal(b"".join(output), b"1" * 12)
    frames = [event.data for event in client.stream("cogway/file-iterator", input={"count": 2})][:2]
    equal([frame.read() for frame in frames], [b"frame 0", b"frame 1"])


@check
def files_are_created_read_listed_and_deleted():
    made = client.files.create(io.BytesIO(b"abc"), filename="na\u00efve.txt", content_type="text/plain", metadata={"of": "me"})
    equal((made.name, made.content_type, made.size, made.metadata), ("na\u00efve.txt", "text/plain", 3, {"of": "me"}))
    equal(made.checksums["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    equal(client.files.get(made.id), made)
    assert made.id in [file.id for file in client.files.list()]
    equal(client.files.delete(made.id), True)
    equal(raised(ReplicateError, lambda: client.files.get(made.id)).status, 404)
    equal(raised(ReplicateError, lambda: client.files.delete(made.id)).status, 404)


@check
def inputs_may_be_files_paths_and_data_uris():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "photo.png"
        path.write_bytes(b"p" * 1234)
        uploaded = client.files.create(path)
        files = [io.BytesIO(b"one"), uploaded.urls["get"], "data:text/plain;base64,aGVsbG8="]
        output = client.run("cogway/inputs", {"file": path, "files": files})
        equal([file["size"] for file in output["files"]], [1234, 3, 1234, 5])
        equal(output["files"][0]["suffix"], ".png")
        inline = client.run("cogway/inputs", {"file": path}, file_encoding_strategy="base64")
        equal(inline["files"], [{"suffix": ".png", "size": 1234}])


@check
def webhooks_are_signed_so_that_validate_accepts_them():
    calls = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            calls.append((dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        made = client.models.predictions.create(
            "cogway/tokens",
            {"count": 3},
            webhook=f"http://127.0.0.1:{server.server_port}/hook",
            webhook_events_filter=["start", "completed"],
        )
        wait_for("both webhooks", lambda: len(calls) >= 2)
    finally:
        server.shutdown()
        server.server_close()
    secret = client.webhooks.default.secret()
    for headers, body in calls:
        Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=3600)
        request = httpx.Request("POST", URL, headers=headers, content=body)
        Webhooks.validate(request, secret=secret)
        raised(InvalidSignatureError, lambda: Webhooks.validate(headers=headers, body=body + " ", secret=secret))
    assert made.id in calls[-1][1] and '"succeeded"' in calls[-1][1]


@check
def deployments():
    configuration = {"hardware": "cpu", "min_instances": 0, "max_instances": 1}
    wanted = {"model": "cogway/noop", "version": noop_version(), **configuration}
    made = client.deployments.create(name=f"{ACCOUNT}/mine", **wanted)
    equal((made.owner, made.name, made.current_release.number), (ACCOUNT, "mine", 1))
    equal(made.current_release.created_by.username, ACCOUNT)
    changed = client.deployments.update(deployment_owner=ACCOUNT, deployment_name="mine", max_instances=2)
    equal((changed.current_release.number, changed.current_release.configuration.max_instances), (2, 2))
    deployment = client.deployments.get(f"{ACCOUNT}/mine")
    equal(deployment.predictions.create({"text": "deployed"}, wait=True).output, "deployed")
    equal(client.deployments.predictions.create(f"{ACCOUNT}/mine", {"text": "again"}, wait=True).output, "again")
    prediction = client.predictions.create(deployment=f"{ACCOUNT}/mine", input={"text": "polled"})
    equal(until_ended(prediction).output, "polled")
    client.deployments.create(name="unused", **wanted)
    equal([found.name for found in client.deployments.list()], ["unused", "mine"])
    equal(client.deployments.delete(ACCOUNT, "unused"), True)
    equal(raised(ReplicateError, lambda: client.deployments.get(f"{ACCOUNT}/unused")).status, 404)
    # It was used within the last 15 minutes.
    equal(raised(ReplicateError, lambda: client.deployments.delete(ACCOUNT, "mine")).status, 409)


def train(name, **inputs):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.txt", "roses")
    archive.name = "flowers.zip"
    client.models.create(ACCOUNT, name, hardware="cpu", visibility="private")
    return client.trainings.create(
        version=f"cogway/trainer:{client.models.get('cogway/trainer').latest_version.id}",
        input={"train_data": archive, **inputs},
        destination=f"{ACCOUNT}/{name}",
    )


@check
def trainings():
    training = train("garden", steps=3)
    equal(training.destination, f"{ACCOUNT}/garden")
    until_ended(training)
    equal(training.status, "succeeded")
    assert "step 3/3" in training.logs
    assert training.id in [found.id for found in client.trainings.list()]
    version = training.output["version"]
    equal(client.run(version, {"text": "hi"}), "hi from roses")
    model = client.models.get(f"{ACCOUNT}/garden")
    equal(f"{ACCOUNT}/garden:{model.latest_version.id}", version)
    # The server answers 202, as Replicate's does; this client knows 204 alone as true.
    equal(model.versions.delete(model.latest_version.id), False)
    equal(client.models.delete(f"{ACCOUNT}/garden"), True)


@check
def a_training_is_canceled():
    training = train("weeds", steps=1000, pause_s=0.1)
    until_running(training)
    training.cancel()
    equal(training.status, "canceled")
    equal(client.trainings.get(training.id).status, "canceled")
    equal(client.trainings.cancel(training.id).status, "canceled")


@check
def errors_are_problems():
    error = raised(ReplicateError, replicate.Client("none").accounts.current)
    equal((error.status, error.title), (401, "Unauthenticated"))
    equal(raised(ReplicateError, lambda: client.models.get("cogway/none")).status, 404)
    equal(raised(ReplicateError, lambda: client.predictions.get("a" * 26)).status, 404)
    wrong = {"count": -1, "delay_ms": "fast", "stamp": 3}
    error = raised(ReplicateError, lambda: client.run("cogway/tokens", wrong))
    equal((error.status, error.title), (422, "Input validation failed"))
    for field in wrong:
        assert f"- input.{field}: " in error.detail, error.detail
    error = raised(ReplicateError, lambda: client.predictions.create(version="0" * 64, input={}))
    equal((error.status, error.title), (422, "Invalid version or not permitted"))


@check
def a_read_that_is_limited_waits_as_it_is_told():
    class Counting(httpx.HTTPTransport):
        limited = 0

        def handle_request(self, request):
            response = super().handle_request(request)
            self.limited += response.status_code == 429
            return response

    transport = Counting()
    hasty = replicate.Client(os.environ["HASTY_TOKEN"], transport=transport)
    started = time.monotonic()
    while transport.limited == 0:
        assert time.monotonic() - started < 30, "nothing was limited"
        hasty.accounts.current()
    # The one that was refused came back with its answer at the second that it was told.
    equal(transport.limited, 1)


run_checks()
