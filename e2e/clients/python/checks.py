"""Runs the functions marked with `check` one by one and prints a line of JSON for each; ../checks.ts shows them as tests."""

import asyncio
import inspect
import json
import time
import traceback

CHECKS = []
WITHIN_S = 60


def check(function):
    CHECKS.append(function)
    return function


def run_checks():
    for function in CHECKS:
        error = None
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"check": function.__name__, "error": error}), flush=True)


def wait_for(what, probe):
    """Polls until `probe` gives something true, with a bound."""
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        value = probe()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {WITHIN_S} s")


def equal(actual, expected):
    assert actual == expected, f"{actual!r} is not {expected!r}"


def raised(kind, function):
    """The exception that `function` raises."""
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")
