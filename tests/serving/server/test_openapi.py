"""The OpenAPI document: the parameters that the server takes, and answers as it says, under schemathesis."""

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from diffoundry.serving.server.openapi import openapi_document
from diffoundry.serving.server.parameter_table import ENDPOINTS, NEUTRAL


def test_the_document_names_every_parameter(running):
    document = httpx.get(f"{running.url}/openapi.json").json()
    assert document == openapi_document()
    for name, parameters in ENDPOINTS.items():
        content = document["paths"][f"/v1/images/{name}"]["post"]["requestBody"]["content"]
        for kind in ("application/json", "multipart/form-data"):
            assert set(content[kind]["schema"]["properties"]) == parameters | set(NEUTRAL)
            assert content[kind]["schema"]["additionalProperties"] is False


@pytest.mark.slow
def test_answers_are_as_the_document_says(running):
    """Valid and broken requests of each operation."""
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    chosen = [
        not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_schema_conformance, checks.negative_data_rejection,
    ]  # fmt: skip
    quick = settings(
        max_examples=30, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    labels, statuses = [], set()
    for found in schema.get_all_operations():
        operation = found.ok()
        labels.append(operation.label)
        for mode in schemathesis.GenerationMode:

            @quick
            @given(case=operation.as_strategy(generation_mode=mode))
            def answer(case):
                if isinstance(case.body, dict):  # few and small images
                    case.body |= {name: value for name, value in _SMALL.items() if name in case.body}
                response = case.call_and_validate(checks=chosen, timeout=60)
                statuses.add(response.status_code)

            try:
                answer()
            except Unsatisfiable:  # nothing can be wrong with a request without a body
                assert mode.is_negative
                assert operation.method in ("get", "delete")
    assert len(labels) == 7
    assert {200, 400, 404} <= statuses


_SMALL = {"n": 1, "num_inference_steps": 1}
