"""PyPI `replicate` 2.x (beta), generated from Replicate's OpenAPI: what it calls that 1.x has no method for, and the usual, with every answer validated."""

import io
import os
import zipfile
from urllib.parse import parse_qs, urlparse

import replicate
from checks import check, equal, raised, run_checks, wait_for
from replicate import ConflictError, NotFoundError, RateLimitError, Replicate, UnprocessableEntityError
from replicate.exceptions import AuthenticationError, ModelError

# REPLICATE_API_TOKEN and REPLICATE_BASE_URL are all that is set for its users.
client = Replicate(_strict_response_validation=True)
ACCOUNT = os.environ["ACCOUNT"]
OWN = {"model_owner": ACCOUNT, "model_name": "shelf"}
NOOP = {"model_owner": "cogway", "model_name": "noop"}


def latest(name):
    return client.models.get(model_owner="cogway", model_name=name).latest_version.id


@check
def account_hardware_and_collections():
    equal(client.account.get().username, ACCOUNT)
    assert "cpu" in [hardware.sku for hardware in client.hardware.list()]
    slug = os.environ["COLLECTION"]
    assert slug in [collection.slug for collection in client.collections.list()]
    equal(client.collections.get(collection_slug=slug).name, "Plain things")


@check
def a_model_is_created_changed_read_and_deleted():
    client.models.create(owner=ACCOUNT, name="shelf", hardware="cpu", visibility="private")
    changed = client.models.update(**OWN, description="a shelf", readme="# Shelf", license_url="https://example.com/l")
    equal((changed.description, changed.license_url), ("a shelf", "https://example.com/l"))
    equal(client.models.readme.get(**OWN), "# Shelf")
    equal(list(client.models.examples.list(**OWN)), [])
    client.models.delete(**OWN)
    raised(NotFoundError, lambda: client.models.get(**OWN))


@check
def versions_and_search():
    equal([version.id for version in client.models.versions.list(**NOOP)], [latest("noop")])
    version = client.models.versions.get(**NOOP, version_id=latest("noop"))
    assert "Input" in version.openapi_schema["components"]["schemas"]
    found = wait_for(
        "the model in search",
        lambda: [each for each in client.search(query="noop", limit=5).models if each.model.name == "noop"],
    )
    assert found[0].metadata.score > 0
    assert "noop" in [model.name for model in client.models.search(body="noop")]


@check
def predictions():
    equal(client.run("cogway/noop", input={"text": "hi"}), "hi")
    equal(replicate.run("cogway/noop", input={"text": "module"}), "module")
    made = client.predictions.create(version=latest("noop"), input={"text": "v"}, prefer="wait=30", cancel_after="1m")
    equal((made.status, made.output), ("succeeded", "v"))
    made = client.models.predictions.create(**NOOP, input={"text": "m"})
    equal(client.predictions.wait(made.id).output, "m")
    running = client.models.predictions.create(
        model_owner="cogway", model_name="tokens", input={"count": 1000, "delay_ms": 100}
    )
    equal(client.predictions.cancel(prediction_id=running.id).status, "canceled")
    error = raised(ModelError, lambda: client.run("cogway/tokens", input={"fail_at": 1}))
    assert "broke in the middle" in str(error), error


@check
def use_runs_and_streams():
    noop = replicate.use("cogway/noop")
    equal(noop(text="used"), "used")
    tokens = replicate.use("cogway/tokens", streaming=True)
    equal(list(tokens(count=3)), ["token 0\n", "token 1\n", "token 2\n"])


@check
def lists_go_on_over_pages():
    pager = Replicate(bearer_token=os.environ["PAGER_TOKEN"], _strict_response_validation=True)
    ids = [prediction.id for prediction in pager.predictions.list()]
    equal((len(ids), len(set(ids))), (int(os.environ["PAGED_PREDICTIONS"]),) * 2)


@check
def files_are_downloaded_by_their_signed_address():
    # As JSON text: an object would go out as a form field for each of its keys, which Replicate's API does not describe.
    metadata = '{"of": "me"}'
    made = client.files.create(content=("a.txt", b"abc", "text/plain"), filename="b.txt", metadata=metadata)
    equal((made.name, made.size, made.content_type, made.metadata), ("b.txt", 3, "text/plain", {"of": "me"}))
    query = parse_qs(urlparse(made.urls.download).query)
    signed = {"owner": query["owner"][0], "expiry": int(query["expiry"][0]), "signature": query["signature"][0]}
    equal(client.files.download(file_id=made.id, **signed).read(), b"abc")
    equal(client.files.get(file_id=made.id).id, made.id)
    assert made.id in [file.id for file in client.files.list()]
    output = client.run("cogway/inputs", input={"file": io.BytesIO(b"12345")})
    equal(output["files"][0]["size"], 5)
    client.files.delete(file_id=made.id)
    raised(NotFoundError, lambda: client.files.get(file_id=made.id))


@check
def deployments():
    own = {"deployment_owner": ACCOUNT, "deployment_name": "mine"}
    configuration = {"hardware": "cpu", "min_instances": 0, "max_instances": 1}
    client.deployments.create(name="mine", model="cogway/noop", version=latest("noop"), **configuration)
    equal(client.deployments.update(**own, max_instances=2).current_release.number, 2)
    equal(client.deployments.get(**own).current_release.configuration.max_instances, 2)
    equal([deployment.name for deployment in client.deployments.list()], ["mine"])
    made = client.deployments.predictions.create(**own, input={"text": "deployed"}, prefer="wait")
    equal(made.output, "deployed")
    # It was just used. The client tries a conflict three times.
    raised(ConflictError, lambda: client.deployments.delete(**own))


@check
def a_training_and_the_version_that_comes_of_it():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.txt", "roses")
    data = client.files.create(content=("flowers.zip", archive.getvalue(), "application/zip"))
    own = {"model_owner": ACCOUNT, "model_name": "garden"}
    client.models.create(owner=ACCOUNT, name="garden", hardware="cpu", visibility="private")
    made = client.trainings.create(
        model_owner="cogway",
        model_name="trainer",
        version_id=latest("trainer"),
        destination=f"{ACCOUNT}/garden",
        input={"train_data": data.urls.get},
    )

    def ended():
        now = client.trainings.get(training_id=made.id)
        return now if now.status in ("succeeded", "failed", "canceled") else None

    training = wait_for("the end of the training", ended)
    equal(training.status, "succeeded")
    assert made.id in [each.id for each in client.trainings.list()]
    equal(client.trainings.cancel(training_id=made.id).status, "succeeded")
    equal(client.run(training.output.version, input={"text": "hi"}), "hi from roses")
    client.models.versions.delete(**own, version_id=training.output.version.split(":")[1])
    client.models.delete(**own)


@check
def errors_and_retries():
    raised(AuthenticationError, Replicate(bearer_token="none").account.get)
    error = raised(UnprocessableEntityError, lambda: client.run("cogway/tokens", input={"count": -1, "stamp": 3}))
    assert "input.count" in str(error) and "input.stamp" in str(error), error
    # Two retries, each after the seconds that it was told, get every one of these through.
    hasty = Replicate(bearer_token=os.environ["HASTY_TOKEN"])
    for _ in range(65):
        hasty.account.get()
    impatient = hasty.with_options(max_retries=0)

    def limited():
        for _ in range(65):
            impatient.account.get()

    assert int(raised(RateLimitError, limited).response.headers["retry-after"]) > 0
    assert client.webhooks.default.secret.get().key.startswith("whsec_")


run_checks()
