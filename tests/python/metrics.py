"""Reads metrics from stdin as Prometheus does, and as OpenMetrics asks for it. Prints {family: [kind, help, {sample: value}]}.

The strict reader of OpenMetrics is given the same page in its own spelling: a family of counters is named without _total,
and the page has an end.
"""

import json
import re
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

page = sys.stdin.read()


def read(families):
    found = {}
    for family in families:
        assert family.name not in found, f"{family.name} is there twice"
        assert family.documentation and family.type in ("counter", "gauge"), family
        samples = {}
        for sample in family.samples:
            key = sample.name + json.dumps(sample.labels, sort_keys=True)
            assert key not in samples, f"{key} is there twice"
            assert sample.name == family.name + ("_total" if family.type == "counter" else ""), sample
            samples[key] = sample.value
        found[family.name] = [family.type, family.documentation, samples]
    return found


strict = re.sub(r"(?m)^# (HELP|TYPE) (\S+)_total ", r"# \1 \2 ", page) + "# EOF\n"
loose, exact = read(prometheus(page)), read(openmetrics(strict))
assert loose == exact, (loose, exact)
json.dump(exact, sys.stdout)
