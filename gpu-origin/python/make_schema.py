"""Writes the OpenAPI schema that coglet needs, out of a predictor's Python types.

coglet's wheels do not make `.cog/openapi_schema.json` (Cog's command-line tool does, at build), and without it there is no validation and no
streaming. This runs with the model's own Python in the model's folder:

    python make_schema.py --ref predict.py:Predictor [--train-ref train.py:train] --out .cog/openapi_schema.json

It imports the predictor (so its dependencies must be there) but never calls setup(), so no weights are loaded. On success one JSON line on stdout
tells what a schema cannot: {"schema", "concurrency", "streaming", "is_async", "output_is_file_list"}. A broken model gives one line on stderr and
exit code 1. Time and address space are bounded by --timeout and --memory-mb.

It reads cog 0.23.1's inspector, which is private to cog: the version is pinned with this file.
"""

import argparse
import ast
import contextlib
import importlib
import inspect
import json
import os
import resource
import signal
import sys
from enum import Enum

HTTP_VALIDATION_ERROR = {
    "title": "HTTPValidationError",
    "type": "object",
    "properties": {
        "detail": {"title": "Detail", "type": "array", "items": {"$ref": "#/components/schemas/ValidationError"}}
    },
}
VALIDATION_ERROR = {
    "title": "ValidationError",
    "type": "object",
    "required": ["loc", "msg", "type"],
    "properties": {
        "loc": {"title": "Location", "type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "msg": {"title": "Message", "type": "string"},
        "type": {"title": "Error Type", "type": "string"},
    },
}
STATUS = {
    "title": "Status",
    "description": "An enumeration.",
    "type": "string",
    "enum": ["starting", "processing", "succeeded", "canceled", "failed"],
}
WEBHOOK_EVENT = {
    "title": "WebhookEvent",
    "description": "An enumeration.",
    "type": "string",
    "enum": ["start", "output", "logs", "completed"],
}


class BrokenModel(Exception):
    """The model's author has to change something; the text says what."""


def title_of(name):
    """`max_tokens` becomes `Max Tokens`."""
    return name.replace("_", " ").title()


def is_missing(value):
    """True for the absence of a default, which cog and dataclasses mark with their own objects."""
    return value is None or type(value).__name__ in {"_MISSING_TYPE", "MissingType"} or value is inspect.Parameter.empty


def default_of(field):
    """The JSON default of an input, or None when it has none (an explicit None counts as none: it cannot be told apart by clients)."""
    value = field.default
    if type(value).__name__ in {"FieldInfo", "Field"}:
        value = getattr(value, "default", None)
    if is_missing(value):
        return None
    if isinstance(value, Enum):
        value = value.value
    if type(value).__name__ == "Secret":
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def json_safe(value):
    """Whether a default can stand in a JSON document."""
    try:
        json.dumps(value)
        return True
    except (TypeError, ValueError):
        return False


def input_components(inputs, name, explicit_none):
    """The object schema `name` of `inputs`, and the enum components that its choices need."""
    properties = {}
    required = []
    enums = {}
    for field in sorted(inputs.values(), key=lambda f: f.order):
        optional = field.type.repetition.name in {"OPTIONAL", "OPTIONAL_REPEATED"}
        union = field.type.union_variants is not None
        default = default_of(field)
        if field.choices:
            kind = field.type.primitive.json_type().get("type", "string")
            enums[field.name] = {
                "title": field.name,
                "description": "An enumeration.",
                "type": kind,
                "enum": list(field.choices),
            }
            prop = {"allOf": [{"$ref": f"#/components/schemas/{field.name}"}]}
        else:
            prop = {"title": title_of(field.name), **field.type.json_type()}
        if field.description:
            prop["description"] = field.description
        if default is not None and json_safe(default):
            prop["default"] = default
        for attribute, key in (("ge", "minimum"), ("le", "maximum"), ("min_length", "minLength"), ("max_length", "maxLength"), ("regex", "pattern")):
            value = getattr(field, attribute, None)
            if value is not None:
                prop[key] = value
        if field.deprecated:
            prop["deprecated"] = True
        if optional:
            prop["nullable"] = True
        prop["x-order"] = field.order
        properties[field.name] = prop
        # Required: no default and not Optional. A union with None stays required unless it has a default, and a Secret declared with
        # Input(default=None) is optional: both are the rules of Cog's own tool.
        secret_without_value = field.type.primitive.name == "SECRET" and field.name in explicit_none
        if default is None and not secret_without_value and (not optional or union):
            required.append(field.name)
    schema = {"title": name, "type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema, enums


def request_component(title, input_ref):
    return {
        "title": title,
        "type": "object",
        "properties": {
            "id": {"title": "Id", "type": "string"},
            "context": {"title": "Context", "type": "object", "additionalProperties": {"type": "string"}, "nullable": True},
            "created_at": {"title": "Created At", "type": "string", "format": "date-time"},
            "input": {"$ref": f"#/components/schemas/{input_ref}"},
            "output_file_prefix": {"title": "Output File Prefix", "type": "string"},
            "webhook": {"title": "Webhook", "type": "string", "format": "uri", "maxLength": 65536, "minLength": 1},
            "webhook_events_filter": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/WebhookEvent"},
                "default": ["start", "output", "logs", "completed"],
            },
        },
    }


def response_component(title, input_ref, output_ref):
    return {
        "title": title,
        "type": "object",
        "properties": {
            "id": {"title": "Id", "type": "string"},
            "version": {"title": "Version", "type": "string"},
            "created_at": {"title": "Created At", "type": "string", "format": "date-time"},
            "started_at": {"title": "Started At", "type": "string", "format": "date-time"},
            "completed_at": {"title": "Completed At", "type": "string", "format": "date-time"},
            "status": {"$ref": "#/components/schemas/Status"},
            "input": {"$ref": f"#/components/schemas/{input_ref}", "nullable": True},
            "output": {"$ref": f"#/components/schemas/{output_ref}"},
            "logs": {"title": "Logs", "type": "string", "default": ""},
            "error": {"title": "Error", "type": "string"},
            "metrics": {"title": "Metrics", "type": "object", "additionalProperties": True},
        },
    }


def operation(summary, operation_id, request=None, response=None, parameters=None):
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{response}"} if response else {"title": "Response"}}}
    result = {
        "summary": summary,
        "operationId": operation_id,
        "responses": {"200": {"description": "Successful Response", "content": content}},
    }
    if parameters:
        result["parameters"] = parameters
    if request:
        result["requestBody"] = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}}}
    if request or parameters:
        result["responses"]["422"] = {
            "description": "Validation Error",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}},
        }
    return result


def id_parameter(name):
    return [{"in": "path", "name": name, "required": True, "schema": {"title": title_of(name), "type": "string"}}]


def build_document(predict, train, streaming):
    """The whole OpenAPI 3.0.2 document in Cog's shape. `predict` and `train` (which may be None) are pairs (PredictorInfo, names with an explicit None)."""
    predict, explicit_none = predict
    input_schema, enums = input_components(predict.inputs, "Input", explicit_none)
    schemas = {
        "Input": input_schema,
        "Output": predict.output.json_type(),
        **enums,
        "PredictionRequest": request_component("PredictionRequest", "Input"),
        "PredictionResponse": response_component("PredictionResponse", "Input", "Output"),
        "Status": STATUS,
        "WebhookEvent": WEBHOOK_EVENT,
        "HTTPValidationError": HTTP_VALIDATION_ERROR,
        "ValidationError": VALIDATION_ERROR,
    }
    post = operation("Predict", "predict_predictions_post", "PredictionRequest", "PredictionResponse")
    if streaming:
        post["x-cog-streaming"] = True
    paths = {
        "/": {"get": operation("Root", "root__get")},
        "/health-check": {"get": operation("Healthcheck", "healthcheck_health_check_get")},
        "/predictions": {"post": post},
        "/predictions/{prediction_id}": {
            "put": operation(
                "Predict Idempotent",
                "predict_idempotent_predictions__prediction_id__put",
                "PredictionRequest",
                "PredictionResponse",
                id_parameter("prediction_id"),
            )
        },
        "/predictions/{prediction_id}/cancel": {
            "post": operation("Cancel", "cancel_predictions__prediction_id__cancel_post", parameters=id_parameter("prediction_id"))
        },
    }
    if train is not None:
        train, training_explicit_none = train
        training_input, training_enums = input_components(train.inputs, "TrainingInput", training_explicit_none)
        for key, value in training_enums.items():
            if schemas.setdefault(key, value) != value:
                # Predictor and trainer have an argument of this name with other choices: Cog's own tool lets the predictor's win.
                training_input["properties"][key] = {**training_input["properties"][key], **value}
                del training_input["properties"][key]["allOf"]
        schemas["TrainingInput"] = training_input
        schemas["TrainingOutput"] = {**train.output.json_type(), "title": "TrainingOutput"}
        schemas["TrainingRequest"] = request_component("TrainingRequest", "TrainingInput")
        schemas["TrainingResponse"] = response_component("TrainingResponse", "TrainingInput", "TrainingOutput")
        paths["/trainings"] = {"post": operation("Train", "train_trainings_post", "TrainingRequest", "TrainingResponse")}
        paths["/trainings/{training_id}"] = {
            "put": operation(
                "Train Idempotent",
                "train_idempotent_trainings__training_id__put",
                "TrainingRequest",
                "TrainingResponse",
                id_parameter("training_id"),
            )
        }
        paths["/trainings/{training_id}/cancel"] = {
            "post": operation("Cancel Training", "cancel_trainings__training_id__cancel_post", parameters=id_parameter("training_id"))
        }
    return {"openapi": "3.0.2", "info": {"title": "Cog", "version": "0.1.0"}, "paths": paths, "components": {"schemas": schemas}}


def split_reference(reference):
    file, separator, name = reference.partition(":")
    if not separator or not file.endswith(".py") or not name.isidentifier():
        raise BrokenModel(f"`{reference}` must have the form file.py:Name")
    if not os.path.isfile(file):
        raise BrokenModel(f"{file}: no such file (named by `{reference}` in cog.yaml)")
    return file, name


def explicit_none_inputs(functions):
    """Names of arguments declared `= None` or `= Input(default=None)`: at run time they look like arguments without a default."""
    names = set()
    for function in functions:
        arguments = function.args.args
        for argument, default in zip(arguments[len(arguments) - len(function.args.defaults) :], function.args.defaults):
            if isinstance(default, ast.Call):
                values = [keyword.value for keyword in default.keywords if keyword.arg == "default"] + default.args[:1]
                default = values[0] if values else default
            if isinstance(default, ast.Constant) and default.value is None:
                names.add(argument.arg)
    return names


def source_facts(file, name):
    """What leaves no mark at run time, read from the source: (streaming, concurrency literal or None, is async, names with an explicit None)."""
    with open(file, encoding="utf-8") as source:
        try:
            tree = ast.parse(source.read(), file)
        except SyntaxError as error:
            raise BrokenModel(f"{file}:{error.lineno}: {error.msg}") from None
    functions = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            functions = [f for f in node.body if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) and f.name in {"run", "predict"}]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            functions = [node]
    streaming, concurrency = False, None
    for function in functions:
        for decorator in function.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            target = call.func if call else decorator
            called = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            if called == "streaming":
                streaming = True
            if called == "concurrent" and call:
                for keyword in call.keywords:
                    if keyword.arg == "max" and isinstance(keyword.value, ast.Constant):
                        concurrency = keyword.value.value
    is_async = any(isinstance(f, ast.AsyncFunctionDef) for f in functions)
    return streaming, concurrency, is_async, explicit_none_inputs(functions)


def inspect_reference(reference):
    """(PredictorInfo, facts of the source, the run function) of `file.py:Name`."""
    from cog import _inspector

    file, name = split_reference(reference)
    facts = source_facts(file, name)
    module_name = os.path.splitext(file)[0].replace("/", ".")
    # What the module prints at import must not get into our one line of stdout.
    with contextlib.redirect_stdout(sys.stderr):
        info = _inspector.create_predictor(module_name, name)
        target = getattr(importlib.import_module(module_name), name)
    function = getattr(target, "run", None) or getattr(target, "predict", None) if inspect.isclass(target) else target
    return info, facts, function


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ref", required=True, help="file.py:Name of the predictor, as `run` or `predict` in cog.yaml")
    parser.add_argument("--train-ref", help="file.py:name of the trainer, as `train` in cog.yaml")
    parser.add_argument("--out", required=True, help="where to write the schema, usually .cog/openapi_schema.json")
    parser.add_argument("--timeout", type=int, default=120, help="seconds (default 120)")
    parser.add_argument("--memory-mb", type=int, default=0, help="limit of the address space in MB (default none)")
    options = parser.parse_args()

    def out_of_time(_signal, _frame):
        raise BrokenModel(f"importing {options.ref} took longer than {options.timeout} s; move slow work from module level into setup()")

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(options.timeout)
    if options.memory_mb:
        limit = options.memory_mb * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.path.insert(0, os.getcwd())

    try:
        info, (streaming, concurrency, is_async, explicit_none), function = inspect_reference(options.ref)
        train = None
        if options.train_ref:
            train_info, train_facts, _ = inspect_reference(options.train_ref)
            train = (train_info, train_facts[3])
        if concurrency is None:
            concurrency = getattr(function, "__cog_concurrent_max__", None)
        document = build_document((info, explicit_none), train, streaming)
    except BrokenModel as problem:
        print(f"{problem}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"{options.ref}: importing it needs more than {options.memory_mb} MB", file=sys.stderr)
        return 1
    except SystemExit as leaving:
        print(f"{options.ref}: the module calls sys.exit({leaving.code!r}) when it is imported", file=sys.stderr)
        return 1
    except Exception as error:  # Whatever a model's top-level code raises is its author's to read, in one line.
        text = " ".join(str(error).split())
        print(f"{options.ref}: {type(error).__name__}: {text}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)

    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    temporary = f"{options.out}.tmp"
    with open(temporary, "w", encoding="utf-8") as out:
        json.dump(document, out)
    # Renamed, so that a reader never sees half a schema.
    os.replace(temporary, options.out)

    output = info.output
    is_file = output.type is not None and output.type.name in {"PATH", "FILE"}
    print(
        json.dumps(
            {
                "schema": document,
                "concurrency": concurrency,
                "streaming": streaming,
                "is_async": is_async,
                "output_is_file_list": is_file and output.kind.name != "SINGLE",
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
