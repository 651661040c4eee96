"""Writes the OpenAPI schema that coglet needs, out of a predictor's Python types: the document that Cog's own tool makes at a build.

coglet's wheels do not make `.cog/openapi_schema.json`, and without it there is no validation and no streaming. This runs with the model's own Python
in the model's folder, as a process or in a container; it needs the standard library and cog, nothing else:

    python make_schema.py --ref predict.py:Runner [--train-ref train.py:train] --out .cog/openapi_schema.json

The predictor is imported (so its dependencies must be there) in a child process whose time and memory are bounded; setup() is never called, so no
weights are loaded. On success one JSON line on stdout tells what a schema cannot:
{"schema", "concurrency", "streaming", "is_async", "output_is_file_list", "warnings"}. A broken model gives one line, the last on stderr, and exit code 1.

Cog's tool reads the source without running it; here the types are those of the imported module, so that what is computed (choices from a list, an input
that a helper made) is known too. coglet itself looks at no type but the inputs', so every output that has a schema here can be run.
"""

import argparse
import collections.abc
import contextlib
import ctypes
import dataclasses
import difflib
import importlib
import inspect
import json
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import types
import typing
from enum import Enum

# Importing a framework with its libraries takes up to a minute on a slow disk.
TIMEOUT_S = 300
# Of data (heap, stacks, private mappings). A framework takes about 1 GB when it is imported; weights belong into setup().
MEMORY_MB = 8192
# Frameworks reserve address space that they never use: tens of GB is usual with CUDA's libraries.
ADDRESS_SPACE_EXTRA_MB = 65536
PR_SET_PDEATHSIG = 1

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


class BrokenModel(Exception):
    """The model's author has to change something; the text says what."""


# What leaves no mark of its own in cog's objects, noted while the model is imported.
INPUTS_WITH_EXPLICIT_NONE = []
STREAMING_FUNCTIONS = []


def title_of(name):
    """`max_tokens` becomes `Max Tokens`; letters that are capitals already stay."""
    return " ".join(part[:1].upper() + part[1:] for part in name.split("_"))


# Types of inputs and outputs.


@dataclasses.dataclass
class InputType:
    schema: dict
    is_nullable: bool = False
    is_union: bool = False
    # values of a Literal
    choices: typing.Optional[list] = None
    # the Python type of a value, or of an element where it is a list
    base: object = None


def name_of(tpe):
    """A type as its author wrote it, nearly."""
    return tpe.__name__ if inspect.isclass(tpe) and not typing.get_args(tpe) else str(tpe).replace("typing.", "")


def is_opaque(tpe):
    """Whether it is Annotated[..., cog.Opaque]."""
    from cog import Opaque

    return typing.get_origin(tpe) is typing.Annotated and any(
        mark is Opaque or isinstance(mark, type(Opaque)) for mark in tpe.__metadata__
    )


def without_annotations(tpe):
    """T of Annotated[T, ...], unless it is opaque."""
    while typing.get_origin(tpe) is typing.Annotated and not is_opaque(tpe):
        tpe = typing.get_args(tpe)[0]
    return tpe


def members_of_union(tpe):
    """(members but None, whether None is one), or None for what is no union."""
    if typing.get_origin(tpe) not in (typing.Union, types.UnionType):
        return None
    members = [without_annotations(member) for member in typing.get_args(tpe)]
    return [member for member in members if member is not type(None)], type(None) in members


def is_typed_dict(tpe):
    return typing.is_typeddict(tpe) or (inspect.isclass(tpe) and issubclass(tpe, dict) and hasattr(tpe, "__required_keys__"))


def is_dict(tpe):
    return tpe is dict or typing.get_origin(tpe) is dict or is_typed_dict(tpe)


def is_list(tpe):
    return tpe is list or typing.get_origin(tpe) is list


def is_class(tpe, parents):
    return inspect.isclass(tpe) and not typing.get_args(tpe) and issubclass(tpe, parents)


def primitive_schema(tpe):
    """The schema of a type without parts, or None."""
    from cog import File, Secret

    plain = {bool: "boolean", int: "integer", float: "number", str: "string", typing.Any: "object"}
    try:
        if tpe in plain:
            return {"type": plain[tpe]}
    except TypeError:
        return None
    if is_class(tpe, (os.PathLike, File)):
        return {"type": "string", "format": "uri"}
    if is_class(tpe, Secret):
        return {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}
    return None


def opaque_schema(tpe):
    """Of what Annotated[tpe, Opaque] hides: a list keeps its shape. With whether it may be null."""
    union = members_of_union(tpe)
    if union is not None:
        return (opaque_schema(union[0][0])[0] if len(union[0]) == 1 else {"type": "object"}), union[1]
    return ({"type": "array", "items": {"type": "object"}} if is_list(tpe) else {"type": "object"}), False


def instead_of(tpe, is_input):
    """What an author could write for a type that has no schema."""
    words = str(tpe)
    if is_class(tpe, Enum):
        return f"Literal[{', '.join(repr(member.value) for member in tpe)}]" if is_input else "str"
    if is_class(tpe, (bytes, bytearray)) or re.search(r"PIL|Image|ndarray|Tensor|IO\b|BufferedReader|AudioSegment", words):
        return "cog.Path, and read or write the file"
    if typing.get_origin(tpe) in (tuple, set, frozenset) or is_class(tpe, (tuple, set, frozenset)):
        return "list" if is_input else "list, or a cog.BaseModel with named members"
    if typing.get_origin(tpe) in (collections.abc.Generator, collections.abc.AsyncGenerator, collections.abc.Iterable):
        return "Iterator[...], or ConcatenateIterator[str] for text" if not is_input else "list"
    if re.search(r"datetime|\.date\b|UUID|Decimal", words):
        return "str"
    if is_input and (dataclasses.is_dataclass(tpe) or hasattr(tpe, "model_fields") or is_class(tpe, object)):
        return "dict, or an input for each of its members"
    if typing.get_origin(tpe) in (collections.abc.Sequence, collections.abc.MutableSequence):
        return "list[...]"
    if typing.get_origin(tpe) in (collections.abc.Mapping, collections.abc.MutableMapping):
        return "dict"
    return "str, int, float, bool, cog.Path, dict or a list of one of them" + ("" if is_input else ", or a cog.BaseModel")


def refuse(tpe, is_input):
    raise BrokenModel(f"type {name_of(tpe)} has no schema; use {instead_of(tpe, is_input)}")


def input_type(tpe):
    """How an input's annotation reads to callers. Raises BrokenModel for what Cog refuses."""
    tpe = without_annotations(tpe)
    if is_opaque(tpe):
        schema, is_nullable = opaque_schema(typing.get_args(tpe)[0])
        return InputType(schema, is_nullable=is_nullable)
    union = members_of_union(tpe)
    if union is not None:
        members, is_nullable = union
        if len(members) == 1:
            inner = input_type(members[0])
            inner.is_nullable = inner.is_nullable or is_nullable
            return inner
        return InputType({"anyOf": [union_member_schema(member) for member in members]}, is_nullable, is_union=True)
    if typing.get_origin(tpe) is typing.Literal:
        values = list(typing.get_args(tpe))
        kinds = {type(value) for value in values}
        if kinds not in ({str}, {int}):
            raise BrokenModel(f"type {name_of(tpe)} must hold texts alone, or whole numbers alone")
        (kind,) = kinds
        return InputType(primitive_schema(kind), choices=values, base=kind)
    if is_dict(tpe):
        return InputType({"type": "object"}, base=dict)
    if is_list(tpe):
        element = without_annotations((typing.get_args(tpe) or (typing.Any,))[0])
        if is_opaque(element) or is_dict(element):
            return InputType({"type": "array", "items": {"type": "object"}}, base=dict)
        items = primitive_schema(element)
        if items is None:
            if is_list(element) or members_of_union(element) is not None or typing.get_origin(element) is typing.Literal:
                raise BrokenModel(f"type {name_of(tpe)} is nested too deep for an input; use list, or dict")
            refuse(element, True)
        return InputType({"type": "array", "items": items}, base=element)
    schema = primitive_schema(tpe)
    if schema is None:
        refuse(tpe, True)
    return InputType(schema, base=tpe)


def union_member_schema(member):
    from cog import File, Secret

    if is_class(member, (os.PathLike, File, Secret)) or typing.get_origin(member) is typing.Literal or is_opaque(member):
        raise BrokenModel(
            f"{name_of(member)} cannot be one of several types; only str, int, float, bool, dict and list can. Use an input for each"
        )
    return input_type(member).schema


def output_schema(tpe, seen=()):
    """The schema of an output, or of a part of one. Raises BrokenModel for what Cog refuses."""
    tpe = without_annotations(tpe)
    if is_opaque(tpe):
        return opaque_schema(typing.get_args(tpe)[0])[0]
    if members_of_union(tpe) is not None:
        raise BrokenModel(
            f"{name_of(tpe)}: an output is of one type and never null; use dict, or a cog.BaseModel whose members may be Optional"
        )
    schema = primitive_schema(tpe)
    if schema is not None:
        return schema
    if is_list(tpe):
        arguments = typing.get_args(tpe)
        return {"type": "array", "items": output_schema(arguments[0], seen) if arguments else {"type": "object"}}
    if is_dict(tpe) and not is_typed_dict(tpe):
        arguments = typing.get_args(tpe)
        if len(arguments) != 2 or without_annotations(arguments[1]) is typing.Any:
            return {"type": "object"}
        return {"type": "object", "additionalProperties": output_schema(arguments[1], seen)}
    members = members_of_model(tpe)
    if members is None:
        refuse(tpe, False)
    if tpe in seen:
        # A model that holds itself: its inner one is any object.
        return {"type": "object"}
    properties = {}
    required = []
    for name, member, is_required in members:
        try:
            properties[name], is_nullable = member_schema(member, (*seen, tpe))
        except BrokenModel as problem:
            raise BrokenModel(f"{tpe.__name__}.{name}: {problem}") from None
        properties[name]["title"] = title_of(name)
        if is_required and not is_nullable:
            required.append(name)
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def member_schema(tpe, seen):
    """Of a member of a model: with whether it may be null, which only a member may."""
    tpe = without_annotations(tpe)
    if is_opaque(tpe):
        schema, is_nullable = opaque_schema(typing.get_args(tpe)[0])
    else:
        union = members_of_union(tpe)
        is_nullable = union is not None and union[1] and len(union[0]) == 1
        schema = output_schema(union[0][0] if is_nullable else tpe, seen)
    return ({**schema, "nullable": True} if is_nullable else schema), is_nullable


def members_of_model(tpe):
    """(name, type, whether it must be given) of each member of a cog.BaseModel, dataclass, pydantic model or TypedDict; None for other types."""
    from cog import BaseModel

    if not inspect.isclass(tpe) or typing.get_args(tpe):
        return None
    fields = getattr(tpe, "model_fields", None)
    if not (is_typed_dict(tpe) or dataclasses.is_dataclass(tpe) or issubclass(tpe, BaseModel) or isinstance(fields, dict)):
        return None
    hints = hints_of(tpe)
    if is_typed_dict(tpe):
        # Required[T] and NotRequired[T] have done their work.
        return [
            (name, typing.get_args(hint)[0] if "Required" in str(typing.get_origin(hint)) else hint, name in tpe.__required_keys__)
            for name, hint in hints.items()
        ]
    if dataclasses.is_dataclass(tpe):
        missing = dataclasses.MISSING
        return [
            (field.name, hints[field.name], field.default is missing and field.default_factory is missing)
            for field in dataclasses.fields(tpe)
        ]
    if isinstance(fields, dict):
        return [(name, hints.get(name, field.annotation), field.is_required()) for name, field in fields.items()]
    return [(name, hint, not hasattr(tpe, name)) for name, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar]


def hints_of(thing):
    """Annotations, with those resolved that are texts."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception as error:
        raise BrokenModel(f"the types of {thing.__qualname__} cannot be resolved: {one_line(error)}") from None


def returned_schema(tpe):
    """The component of what a run returns; Cog titles a trainer's like a predictor's."""
    from cog import AsyncConcatenateIterator, ConcatenateIterator

    tpe = without_annotations(tpe)
    origin = typing.get_origin(tpe) or tpe
    concatenates = origin in (ConcatenateIterator, AsyncConcatenateIterator)
    iterators = (typing.Iterator, typing.AsyncIterator, collections.abc.Iterator, collections.abc.AsyncIterator)
    if not concatenates and origin not in iterators:
        return {"title": "Output", **output_schema(tpe)}
    arguments = typing.get_args(tpe)
    if len(arguments) != 1:
        raise BrokenModel(f"{name_of(tpe)} needs the type of its elements, such as {name_of(origin)}[str]")
    if concatenates and arguments[0] is not str:
        raise BrokenModel(f"{name_of(origin)} joins texts: its elements must be str; use Iterator for other types")
    display = {"x-cog-array-display": "concatenate"} if concatenates else {}
    return {"title": "Output", "type": "array", "items": output_schema(arguments[0]), "x-cog-array-type": "iterator", **display}


# Inputs.


def default_of(parameter):
    """(whether there is a default, its JSON value or None where it has none, cog's record of the input or None)."""
    from cog.input import FieldInfo

    value = parameter.default
    if value is inspect.Parameter.empty:
        return False, None, None
    if not isinstance(value, FieldInfo):
        return True, plain(value), None
    record = value
    value = record.default
    if isinstance(value, dataclasses.Field):
        missing = dataclasses.MISSING
        value = value.default_factory() if value.default_factory is not missing else None if value.default is missing else value.default
    is_given = value is not None or any(record is known for known in INPUTS_WITH_EXPLICIT_NONE)
    return is_given, plain(value), record


def plain(value):
    """A default as JSON has it, or None. The text of a secret never stands in a schema."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, (tuple, set, frozenset)):
        value = list(value)
    try:
        json.dumps(value, allow_nan=False)
        return value
    except (TypeError, ValueError, RecursionError):
        return None


def check_limits(record, kind, default, choices):
    """Limits that cannot be of this type, or that the default breaks; what callers would meet at the first prediction."""
    values = [] if default is None else default if isinstance(default, list) else [default]
    if (record.ge is not None or record.le is not None) and kind not in (int, float):
        raise BrokenModel("ge and le are for int and float")
    if (record.min_length is not None or record.max_length is not None or record.regex is not None) and kind is not str:
        raise BrokenModel("min_length, max_length and regex are for str")
    if choices is not None:
        if kind not in (str, int):
            raise BrokenModel("choices are for str and int")
        if not choices or any(type(choice) is not kind for choice in choices):
            raise BrokenModel(f"choices must be a list of {kind.__name__}, and not empty")
    for value in values:
        if record.ge is not None and value < record.ge or record.le is not None and value > record.le:
            raise BrokenModel(f"the default {value!r} is outside of its limits")
        if record.min_length is not None and len(value) < record.min_length or record.max_length is not None and len(value) > record.max_length:
            raise BrokenModel(f"the default {value!r} is too short or too long")
        if record.regex is not None and not re.match(record.regex, value):
            raise BrokenModel(f"the default {value!r} does not match its regex")


def input_property(order, parameter, annotation):
    """(property, whether it is required, component of its choices or None) of one parameter."""
    tpe = input_type(annotation)
    has_default, default, record = default_of(parameter)
    choices = tpe.choices
    if record is not None and record.choices is not None:
        choices = [choice.value if isinstance(choice, Enum) else choice for choice in record.choices]
    if record is not None:
        check_limits(record, tpe.base, default, choices)
    is_secret = tpe.schema.get("x-cog-secret", False)
    # None for a secret is "none was given"; for another type that cannot be null it is no default at all ("make one up when it runs").
    is_nullable = tpe.is_nullable or (is_secret and has_default and default is None)
    raw = record.default if record is not None else parameter.default
    if has_default and raw is None and not is_nullable:
        has_default = False
    prop = {}
    component = None
    if choices is None:
        prop = {"title": title_of(parameter.name), **tpe.schema}
    else:
        prop["allOf"] = [{"$ref": f"#/components/schemas/{parameter.name}"}]
        kind = (tpe.schema.get("items") or tpe.schema).get("type", "string")
        component = {"title": parameter.name, "description": "An enumeration.", "enum": choices, "type": kind}
    if record is not None and record.description is not None:
        prop["description"] = record.description
    if has_default and not (is_secret and default is not None) and (default is not None or raw is None):
        prop["default"] = default
    if is_nullable:
        prop["nullable"] = True
    limits = {"ge": "minimum", "le": "maximum", "min_length": "minLength", "max_length": "maxLength", "regex": "pattern"}
    for attribute, key in limits.items():
        value = getattr(record, attribute, None)
        if value is not None:
            prop[key] = value
    if getattr(record, "deprecated", None):
        prop["deprecated"] = True
    if getattr(record, "accept", None) is not None:
        prop["x-cog-accept"] = record.accept
    prop["x-order"] = order
    return prop, not has_default and (tpe.is_union or not is_nullable), component


def input_components(function, hints, skips_self, title):
    """(the object schema of a function's parameters, components of their choices, everything that is wrong with them)."""
    parameters = list(inspect.signature(function).parameters.values())
    problems = []
    if skips_self:
        if not parameters or parameters[0].name != "self":
            problems.append("must have self as its first parameter")
        parameters = parameters[1:]
    properties, required, enums = {}, [], {}
    for order, parameter in enumerate(parameters):
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            problems.append(f"parameter {parameter.name}: *args, **kwargs and keyword-only parameters are no inputs; name each input")
            continue
        if parameter.name not in hints:
            problems.append(f"parameter {parameter.name} has no type; write it as {parameter.name}: str, or what it is")
            continue
        try:
            prop, is_required, component = input_property(order, parameter, hints[parameter.name])
        except BrokenModel as problem:
            problems.append(f"parameter {parameter.name}: {problem}")
            continue
        properties[parameter.name] = prop
        if is_required:
            required.append(parameter.name)
        if component is not None:
            enums[parameter.name] = component
    schema = {"title": title, "type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema, enums, problems


# The document.


def request_component(title, input_ref):
    return {
        "title": title,
        "type": "object",
        "properties": {"id": {"title": "Id", "type": "string"}, "input": {"$ref": f"#/components/schemas/{input_ref}"}},
    }


def response_component(title, input_ref, output_ref):
    time = {"type": "string", "format": "date-time"}
    return {
        "title": title,
        "type": "object",
        "properties": {
            "input": {"$ref": f"#/components/schemas/{input_ref}"},
            "output": {"$ref": f"#/components/schemas/{output_ref}"},
            "id": {"title": "Id", "type": "string"},
            "version": {"title": "Version", "type": "string"},
            "created_at": {"title": "Created At", **time},
            "started_at": {"title": "Started At", **time},
            "completed_at": {"title": "Completed At", **time},
            "status": {"title": "Status", "type": "string"},
            "error": {"title": "Error", "type": "string"},
            "logs": {"title": "Logs", "type": "string"},
            "metrics": {"title": "Metrics", "type": "object"},
        },
    }


def answer(schema, description="Successful Response"):
    return {"description": description, "content": {"application/json": {"schema": schema}}}


INVALID = answer({"$ref": "#/components/schemas/HTTPValidationError"}, "Validation Error")


def run_paths(noun, verb, request, response):
    """The operations that start and cancel a run: `noun` is `prediction` or `training`."""
    stem = f"{noun}s"
    start = {
        "summary": verb,
        "description": f"Run a single {noun} on the model",
        "operationId": f"{verb.lower()}_{stem}_post",
        "requestBody": {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}}},
        "responses": {"200": answer({"$ref": f"#/components/schemas/{response}"}), "422": INVALID},
    }
    name = f"{noun}_id"
    cancel = {
        "summary": "Cancel",
        "operationId": f"cancel_{stem}__{name}__cancel_post",
        "parameters": [{"required": True, "schema": {"title": title_of(name), "type": "string"}, "name": name, "in": "path"}],
        "responses": {"200": answer({}), "422": INVALID},
    }
    return {f"/{stem}": {"post": start}, f"/{stem}/{{{name}}}/cancel": {"post": cancel}}


def get_path(summary, operation_id):
    return {"get": {"summary": summary, "operationId": operation_id, "responses": {"200": answer({})}}}


def build_document(predict, train, streaming, version):
    """The whole OpenAPI 3.0.2 document. `predict` and `train` (which may be None) are (input, enums, output)."""
    input_schema, enums, output = predict
    schemas = {
        "Input": input_schema,
        "Output": output,
        **enums,
        "PredictionRequest": request_component("PredictionRequest", "Input"),
        "PredictionResponse": response_component("PredictionResponse", "Input", "Output"),
        "Status": STATUS,
        "HTTPValidationError": HTTP_VALIDATION_ERROR,
        "ValidationError": VALIDATION_ERROR,
    }
    paths = {
        "/": get_path("Root", "root__get"),
        "/health-check": get_path("Healthcheck", "healthcheck_health_check_get"),
        **run_paths("prediction", "Predict", "PredictionRequest", "PredictionResponse"),
    }
    if streaming:
        paths["/predictions"]["post"]["x-cog-streaming"] = True
    if train is not None:
        training_input, training_enums, training_output = train
        for key, component in training_enums.items():
            if schemas.setdefault(key, component) != component:
                # Predictor and trainer have an input of this name with other choices; Cog's own tool would show the trainer's as the predictor's.
                own = training_input["properties"][key]
                del own["allOf"]
                own.update({"type": component["type"], "enum": component["enum"], "title": title_of(key)})
        schemas["TrainingInput"] = training_input
        schemas["TrainingOutput"] = training_output
        schemas["TrainingRequest"] = request_component("TrainingRequest", "TrainingInput")
        schemas["TrainingResponse"] = response_component("TrainingResponse", "TrainingInput", "TrainingOutput")
        paths.update(run_paths("training", "Train", "TrainingRequest", "TrainingResponse"))
    return {"openapi": "3.0.2", "info": {"title": "Cog", "version": version}, "paths": paths, "components": {"schemas": schemas}}


# The model.


def note_marks():
    """Puts recorders in the place of cog's functions that leave no mark, before the model is imported."""
    import cog
    import cog.input

    real_input, real_streaming = cog.Input, cog.streaming

    def recording_input(*arguments, **options):
        record = real_input(*arguments, **options)
        if record.default is None and (arguments or "default" in options):
            INPUTS_WITH_EXPLICIT_NONE.append(record)
        return record

    def recording_streaming(function=None):
        if function is None:
            return recording_streaming
        STREAMING_FUNCTIONS.append(function)
        return real_streaming(function)

    cog.Input = cog.input.Input = recording_input
    cog.streaming = recording_streaming


def import_reference(reference):
    """(file, the class or function) of `file.py:Name`."""
    file, separator, name = reference.partition(":")
    if not separator or not file.endswith(".py") or not name.isidentifier():
        raise BrokenModel(f"`{reference}` must have the form file.py:Name")
    if not os.path.isfile(file):
        raise BrokenModel(f"{file}: no such file (named by `{reference}` in cog.yaml)")
    module_name = os.path.splitext(os.path.normpath(file))[0].replace(os.sep, ".")
    module = importlib.import_module(module_name)
    if os.path.realpath(getattr(module, "__file__", None) or "") != os.path.realpath(file):
        raise BrokenModel(f"{file}: Python has a module {module_name} of its own; give the file another name")
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name and callable(value)]
        near = difflib.get_close_matches(name, own, 1) or (own if len(own) == 1 else [])
        hint = f"did you mean {file}:{near[0]}?" if near else f"it defines {', '.join(own) or 'nothing'}"
        raise BrokenModel(f"{file} has no {name}; {hint}")
    return file, getattr(module, name)


def own_method(cls, name):
    """A method that the class or a parent of its own defines; cog's base classes have placeholders of these names."""
    for parent in cls.__mro__:
        if name in vars(parent):
            return None if parent.__module__.split(".")[0] == "cog" else getattr(cls, name)
    return None


def run_function(file, target, warnings):
    """(the function that runs, whether it has a self) of a runner class or a function."""
    if not inspect.isclass(target):
        if not callable(target):
            raise BrokenModel(f"{file}: {target!r} is neither a class nor a function")
        return target, False
    run, predict = own_method(target, "run"), own_method(target, "predict")
    if run is not None and predict is not None:
        raise BrokenModel(f"{file}: {target.__name__} has run() and predict(); keep run()")
    # A class that trains has a method of that name.
    function = run or predict or own_method(target, "train")
    if function is None:
        raise BrokenModel(f"{file}: {target.__name__} has no run() method")
    if predict is not None:
        warnings.append(f"{file}: {target.__name__}.predict() is deprecated; name it run().")
    setup = own_method(target, "setup")
    if setup is not None:
        extra = [
            name
            for name, parameter in inspect.signature(setup).parameters.items()
            if name not in ("self", "weights") and parameter.default is inspect.Parameter.empty
        ]
        if extra:
            raise BrokenModel(f"{file}: setup() is called with weights alone; it must not need {', '.join(extra)}")
    return function, True


def inspect_reference(reference, input_title, warnings):
    """((input, enums, output), the function) of `file.py:Name`."""
    file, target = import_reference(reference)
    function, has_self = run_function(file, target, warnings)
    inner = inspect.unwrap(function)
    where = f"{file}: {inner.__name__}()"
    try:
        hints = hints_of(inner)
    except BrokenModel as problem:
        raise BrokenModel(f"{where}: {problem}") from None
    schema, enums, problems = input_components(inner, hints, has_self, input_title)
    output = None
    if hints.get("return") in (None, type(None)):
        problems.append("must say what it returns, such as -> str or -> cog.Path")
    else:
        try:
            output = returned_schema(hints["return"])
        except BrokenModel as problem:
            problems.append(f"its output: {problem}")
    if problems:
        raise BrokenModel(f"{where}: {'; '.join(problems)}.")
    return (schema, enums, output), inner


def make(options):
    """The facts that are printed; writes the schema. Runs in the child."""
    note_marks()
    from cog import __version__

    warnings = []
    predict, function = inspect_reference(options.ref, "Input", warnings)
    train = None
    if options.train_ref:
        train, _ = inspect_reference(options.train_ref, "TrainingInput", warnings)
    streaming = any(function is known for known in STREAMING_FUNCTIONS)
    document = build_document(predict, train, streaming, __version__)
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    temporary = f"{options.out}.tmp"
    with open(temporary, "w", encoding="utf-8") as out:
        json.dump(document, out)
    # Renamed, so that a reader never sees half a schema.
    os.replace(temporary, options.out)
    output = predict[2]
    return {
        "schema": document,
        "concurrency": getattr(function, "__cog_concurrent_max__", None),
        "streaming": streaming,
        "is_async": inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
        "output_is_file_list": output["type"] == "array" and output["items"].get("format") == "uri",
        "warnings": warnings,
    }


# Faults, and the child that may meet them.

PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "skimage": "scikit-image"}


def one_line(error):
    return " ".join(str(error).split())[:500]


def place_of(error, reference):
    """`file.py:12` of the deepest line of the model's own code."""
    folder = os.path.join(os.getcwd(), "")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.realpath(frame.filename).startswith(folder)]
    return f"{os.path.relpath(own[-1].filename)}:{own[-1].lineno}" if own else reference.partition(":")[0]


def explain(error, options):
    """One line for whatever a model's code raised."""
    if isinstance(error, BrokenModel):
        return str(error)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.relpath(error.filename)}:{error.lineno}:{error.offset or 1}: {error.msg}"
    place = place_of(error, options.ref)
    if isinstance(error, MemoryError):
        return f"{place}: importing it needs more than {options.memory_mb} MB of memory; load weights in setup(), not at module level"
    if isinstance(error, SystemExit):
        return f"{place}: the module calls sys.exit({error.code!r}) when it is imported"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"{place}: no module named {error.name}; add {PACKAGES.get(package, package)} to the requirements"
    return f"{place}: importing it fails: {type(error).__name__}: {one_line(error)}"


def limit(kind, size):
    """Lowers a limit to `size` bytes, or leaves it where the host's own is lower."""
    _, hard = resource.getrlimit(kind)
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(kind, (size, size))


def run_child(options, result_file):
    """Imports the model within the limits and writes the facts, or the fault, to `result_file`. Never returns."""
    os.setsid()
    if sys.platform == "linux":
        # Should this program be killed, the child ends with it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What the model prints, C libraries too, must not get into our one line of stdout.
    os.dup2(2, 1)
    data = options.memory_mb * 1024 * 1024
    limit(resource.RLIMIT_DATA, data)
    limit(resource.RLIMIT_AS, data + ADDRESS_SPACE_EXTRA_MB * 1024 * 1024)
    sys.path.insert(0, os.getcwd())
    try:
        result = {"facts": make(options)}
    except BaseException as error:  # Whatever a model's top-level code raises is its author's to read.
        result = {"fault": explain(error, options)}
    result_file.write(json.dumps(result).encode())
    result_file.flush()
    sys.stderr.flush()
    # A thread that the model's module started must not keep the process.
    os._exit(0)


def wait_for(child, options):
    """How the child ended when it wrote nothing, or None."""

    def out_of_time(_signal, _frame):
        raise TimeoutError

    def told_to_end(_signal, _frame):
        raise SystemExit(1)

    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, told_to_end)
    signal.alarm(options.timeout)
    try:
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        return f"{options.ref}: importing it took longer than {options.timeout} s; move slow work from module level into setup()"
    finally:
        # With what it started.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"{options.ref}: importing it crashed Python ({name}); it may need more than {options.memory_mb} MB of memory, or a library is broken"
    return f"{options.ref}: importing it ended the process (exit code {os.WEXITSTATUS(status)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ref", required=True, help="file.py:Name of the runner, as `run` in cog.yaml")
    parser.add_argument("--train-ref", help="file.py:name of the trainer, as `train` in cog.yaml")
    parser.add_argument("--out", required=True, help="where to write the schema, usually .cog/openapi_schema.json")
    parser.add_argument("--timeout", type=int, default=TIMEOUT_S, help=f"seconds (default {TIMEOUT_S})")
    parser.add_argument("--memory-mb", type=int, default=MEMORY_MB, help=f"bound of its memory (default {MEMORY_MB})")
    options = parser.parse_args()
    with tempfile.TemporaryFile() as result_file:
        child = os.fork()
        if child == 0:
            run_child(options, result_file)
        fault = wait_for(child, options)
        result_file.seek(0)
        text = result_file.read()
    result = json.loads(text) if text else {"fault": fault}
    if "fault" in result:
        print(result["fault"], file=sys.stderr)
        return 1
    print(json.dumps(result["facts"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
