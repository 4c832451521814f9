"""Evaluates admission policies as an API server does, with the reference implementation of CEL (cel-cpp).

Reads one JSON object: policies (a List of objects each) and requests; a request names the policy it is held against and
has what expressions see: object, oldObject, request, namespaceObject. Prints a list with one entry for each request: the
messages of what refuses it, none where it is admitted.
"""

import json
import os
import sys

from cel_expr_python import cel

NAMES = ("object", "oldObject", "request", "namespaceObject", "variables")
ENVIRONMENT = cel.NewEnv(variables={name: cel.Type.DYN for name in NAMES})


class Policy:
    def __init__(self, manifest):
        spec = manifest["spec"]
        assert spec["failurePolicy"] == "Fail"
        constraints = spec["matchConstraints"]
        self.rules = constraints["resourceRules"]
        self.labels = constraints.get("objectSelector", {}).get("matchLabels", {})
        self.conditions = [compile_one(one["expression"]) for one in spec["matchConditions"]]
        self.variables = [(one["name"], compile_one(one["expression"])) for one in spec["variables"]]
        self.validations = [(one["message"], compile_one(one["expression"])) for one in spec["validations"]]

    def matches(self, seen):
        request, resource = seen["request"], seen["request"]["resource"]
        carries = [one for one in (seen["object"], seen["oldObject"]) if one is not None]
        return any(
            resource["group"] in rule["apiGroups"]
            and any(name in ("*", resource["resource"]) for name in rule["resources"])
            and request["operation"] in rule["operations"]
            for rule in self.rules
        ) and (
            not self.labels
            or any(self.labels.items() <= one["metadata"].get("labels", {}).items() for one in carries)
        )

    def refuse(self, seen):
        """What refuses it; an expression that cannot be evaluated does, too."""
        if not self.matches(seen):
            return []
        seen = dict(seen, variables={})
        refused = []
        for condition in self.conditions:
            met = evaluate(condition, seen)
            if met is False:
                return []
            if met is not True:
                refused.append(f"fault: a condition: {met}")
        for name, variable in self.variables:
            value = evaluate(variable, seen)
            if isinstance(value, Fault):
                refused.append(f"fault: {name}: {value}")
            else:
                seen["variables"][name] = value
        for message, validation in self.validations:
            holds = evaluate(validation, seen)
            if holds is not True:
                refused.append(message if holds is False else f"fault: {message}: {holds}")
        return refused


class Fault(str):
    """Why an expression has no value."""


def compile_one(text):
    try:
        return ENVIRONMENT.compile(text)
    except Exception as error:
        sys.exit(f"{error}\nin {text[:400]}")


def evaluate(expression, seen):
    try:
        value = expression.eval(data=seen)
        return Fault(value.value()) if value.type() == cel.Type.ERROR else value.plain_value()
    except Exception as error:
        return Fault(error)


def main():
    # The library ends a text that it is given at NUL; another control character stands for it.
    order = json.loads(sys.stdin.read().replace("\\u0000", "\\u0001"))
    policies = [
        [Policy(one) for one in listed["items"] if one["kind"] == "ValidatingAdmissionPolicy"]
        for listed in order["policies"]
    ]
    answers = []
    for seen in order["requests"]:
        held_against = policies[seen.pop("policy")]
        answers.append([message for policy in held_against for message in policy.refuse(seen)])
    json.dump(answers, sys.stdout)
    sys.stdout.flush()


# The library gives back one reference to None too many for each null it converts, which before Python 3.12 ends the
# interpreter. So it gets some to spare, and the interpreter is not taken apart.
SPARE = [None] * 1_000_000
main()
os._exit(0)
