"""Every kind of bad Deployment file, and what is said about it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary import config, places
from ray_canary.errors import MISSING, ConfigError, Problem

GOOD = "name: s\nbento: s:1\n"


def service(*lines: str) -> str:
    """Return a file whose fifth line is the first of these, in a service called S."""
    return GOOD + "services:\n  S:\n" + "".join(f"    {line}\n" for line in lines)


def version(line: str, key: str = "a") -> str:
    """Return a file whose sixth line is this canary version."""
    return GOOD + f"canary:\n  route_type: random\n  versions:\n    {key}: {line}\n"


BAD = {
    "empty": ("", ["f.yaml: is empty: it should hold a Deployment, which has at least a name and a bento"]),
    "only a comment": (
        "# nothing\n",
        ["f.yaml: is empty: it should hold a Deployment, which has at least a name and a bento"],
    ),
    "a list": (
        "- name: s\n",
        ["f.yaml: holds a list: it should hold a Deployment, which has at least a name and a bento"],
    ),
    "a text": (
        "summarization\n",
        ["f.yaml: holds a single value: it should hold a Deployment, which has at least a name and a bento"],
    ),
    "no YAML": (
        GOOD + "envs: a: b\n",
        ["f.yaml:3: is not valid YAML: mapping values are not allowed here"],
    ),
    "a tab": (
        GOOD + "services:\n\tS: {}\n",
        [
            "f.yaml:4: is not valid YAML: found character '\\t' that cannot start any token "
            "(while scanning for the next token)"
        ],
    ),
    "an open bracket": (
        GOOD + "envs: [\n",
        [
            "f.yaml:4: is not valid YAML: expected the node content, but found '<stream end>' "
            "(while parsing a flow node)"
        ],
    ),
    "a control character": (
        GOOD + 'description: "\x07"\n',
        ["f.yaml:3: is not valid YAML: the character #x0007 is not allowed"],
    ),
    "two documents": (
        "name: s\n---\nname: t\n",
        ["f.yaml:2: is not valid YAML: but found another document (expected a single document in the stream)"],
    ),
    "an unknown tag": (
        "name: !!python/name:os.system\nbento: s\n",
        ["f.yaml:1: name: the tag !!python/name:os.system is not supported"],
    ),
    "a value against its tag": (
        GOOD + "dev: !!bool maybe\n",
        [
            "f.yaml:3: dev: maybe is not a value of its type",
        ],
    ),
    "a number without end": (
        version(f"{{bento: s, weight: {'9' * 5000}}}"),
        [
            "f.yaml:6: canary.versions.a.weight: 99999999999999999999 is not a value of its type",
        ],
    ),
    "a merge of no mapping": (
        GOOD + "services: {S: {<<: x}}\n",
        ["f.yaml:3: is not valid YAML: << can only merge mappings"],
    ),
    "an application that is a number": (
        GOOD + "ray: {applications: {main: 1}}\n",
        ["f.yaml:3: ray.applications.main: 1 is not the name of a Serve application; quote it"],
    ),
    "a route_by that is a number": (
        GOOD + "canary: {route_type: query, route_by: 1}\n",
        ["f.yaml:3: canary.route_by: 1 is not text; quote it"],
    ),
    "a list for a key": (GOOD + "? [a]\n: b\n", ["f.yaml:3: is not valid YAML: a key must be text"]),
    "a number for a key": (
        version("{bento: s, weight: 1}", "1"),
        ["f.yaml:6: canary.versions.1: the key 1 is not text; quote it"],
    ),
    "aliases without end": (
        GOOD + "envs: &a [*a]\n",
        ["f.yaml: is nested too deeply"],
    ),
    "a duplicate key": (
        GOOD + "name: t\n",
        ["f.yaml:3: name: is given twice, first in line 1"],
    ),
    "a duplicate key far down": (
        service("scaling:", "  max_replicas: 1", "  max_replicas: 2"),
        ["f.yaml:7: services.S.scaling.max_replicas: is given twice, first in line 6"],
    ),
    "an octal number": (
        version("{bento: s, weight: 010}"),
        ["f.yaml:6: canary.versions.a.weight: YAML reads 010 as the number 8; quote it, or write 8"],
    ),
    "a time of day": (
        GOOD + "envs: [{name: A, value: 12:30:00}]\n",
        ["f.yaml:3: envs[0].value: YAML reads 12:30:00 as the number 45000; quote it, or write 45000"],
    ),
    "infinity": (
        service("config_overrides: {http: {x: .inf}}"),
        ["f.yaml:5: services.S.config_overrides.http.x: .inf is not a number that can be used"],
    ),
    "no name": ("bento: s:1\n", ["f.yaml:1: name: is required"]),
    "no bento": ("name: s\n", ["f.yaml:1: bento: is required"]),
    "capitals in the name": (
        "name: Summarization\nbento: s\n",
        ['f.yaml:1: name: "Summarization" is not a name of 1 to 63 of a-z, 0-9 and -, with no - at the ends'],
    ),
    "a name too long": (
        f"name: {'n' * 64}\nbento: s\n",
        [f'f.yaml:1: name: "{"n" * 57}..." is not a name of 1 to 63 of a-z, 0-9 and -, with no - at the ends'],
    ),
    "a name that is a number": (
        "name: 12\nbento: s\n",
        ["f.yaml:1: name: 12 is not a name of 1 to 63 of a-z, 0-9 and -, with no - at the ends; quote it"],
    ),
    "a name like another's main": (
        "name: s-main\nbento: s\n",
        [
            'f.yaml:1: name: "s-main" could be taken for an application of another Deployment; '
            "a name can't contain `-canary-`, nor end with `-canary` or `-main`"
        ],
    ),
    "a name like another's canary": (
        "name: s-canary-a\nbento: s\n",
        [
            'f.yaml:1: name: "s-canary-a" could be taken for an application of another Deployment; '
            "a name can't contain `-canary-`, nor end with `-canary` or `-main`"
        ],
    ),
    "a project path": (
        "name: s\nbento: projects/summarization\n",
        [
            'f.yaml:2: bento: "projects/summarization" is not a place of a Bento: it is neither a tag nor a path; '
            "a path begins with ./, ../ or /"
        ],
    ),
    "a URL with a password": (
        "name: s\nbento: https://me:hunter22@bentos.example/s.bento\n",
        [
            "f.yaml:2: bento: this URL is not a place of a Bento: it has a user or a password in it, which would "
            "stand in Serve's config in clear text; leave it out; each machine's own configuration or environment says "
            "who asks"
        ],
    ),
    "a signed URL": (
        version("{bento: 'https://bentos.example/s.bento?X-Amz-Signature=hunter22', weight: 1}"),
        [
            "f.yaml:6: canary.versions.a.bento: this URL is not a place of a Bento: X-Amz-Signature in its query looks "
            "like a credential, which would stand in clear text; fetch it yourself and name the file, or let the "
            "machines' own configuration say who asks"
        ],
    ),
    "a URL without encryption": (
        "name: s\nbento: http://bentos.example/s.bento\n",
        [
            "f.yaml:2: bento: this URL is not a place of a Bento: http:// is not fetched from; the schemes are https, "
            "s3, gs, gcs, az, abfs, abfss, file"
        ],
    ),
    "a URL of a whole bucket": (
        "name: s\nbento: s3://bentos\n",
        [
            "f.yaml:2: bento: this URL is not a place of a Bento: it names no file; write s3://place/path.bento",
        ],
    ),
    "a relative folder for Bentos": (
        GOOD + "ray: {bento_store: ./shared}\n",
        [
            'f.yaml:3: ray.bento_store: "./shared" is not a place to keep Bentos in: it is neither an absolute path '
            "nor a URL; like /shared/bentos or s3://bucket/bentos"
        ],
    ),
    "the root as a folder for Bentos": (
        GOOD + "ray: {bento_store: /}\n",
        [
            'f.yaml:3: ray.bento_store: "/" is not a place to keep Bentos in: it names no folder; '
            "name one that all nodes share, like /shared/bentos"
        ],
    ),
    "the root as a URL for Bentos": (
        GOOD + "ray: {bento_store: 'file:///'}\n",
        [
            "f.yaml:3: ray.bento_store: this URL is not a place to keep Bentos in: it names no folder; "
            "name one that all nodes share, like /shared/bentos"
        ],
    ),
    "a place for Bentos that can't be written": (
        GOOD + "ray: {bento_store: 'https://bentos.example/all'}\n",
        [
            "f.yaml:3: ray.bento_store: this URL is not a place to keep Bentos in: nothing can be kept at https://; "
            "use a bucket (s3://, gs://), or a folder (file://)"
        ],
    ),
    "a tag with two colons": (
        "name: s\nbento: s:1:2\n",
        [f'f.yaml:2: bento: "s:1:2" is not {places.WORDS}'],
    ),
    "a tag that ends early": (
        "name: s\nbento: 's:'\n",
        [f'f.yaml:2: bento: "s:" is not {places.WORDS}'],
    ),
    "an unknown key": (
        GOOD + "servces: {}\n",
        ["f.yaml:3: servces: is not a known key; did you mean 'services'?"],
    ),
    "a key like nothing": (
        version("{bento: s, weight: 1, zzz: 1}"),
        [
            "f.yaml:6: canary.versions.a.zzz: is not a known key; "
            "the keys here are bento, weight, services, envs, secrets"
        ],
    ),
    "a key one block too high": (
        service("min_replicas: 1"),
        ["f.yaml:5: services.S.min_replicas: is not a known key; it belongs under 'scaling'"],
    ),
    "a misspelt override": (
        service("config_overrides:", "  trafic: {}"),
        ["f.yaml:6: services.S.config_overrides.trafic: is not a known key; did you mean 'traffic'?"],
    ),
    "a quoted boolean": (
        GOOD + 'access_authorization: "false"\n',
        ['f.yaml:3: access_authorization: "false" is not true or false; take the quotes off'],
    ),
    "a split by the header that selects a version": (
        GOOD + "canary: {route_type: header, route_by: X-Bento-Version, versions: {a: {bento: s, weight: 1}}}\n",
        [
            'f.yaml:3: canary.route_by: "X-Bento-Version" selects a version by hand; '
            "split by another header, like X-User-ID"
        ],
    ),
    "a split by the token": (
        GOOD
        + "access_authorization: true\n"
        + "canary: {route_type: header, route_by: authorization, versions: {a: {bento: s, weight: 1}}}\n",
        [
            'f.yaml:4: canary.route_by: "authorization" carries the access token, which is no key; '
            "split by another header, like X-User-ID"
        ],
    ),
    "a version without bento": (version("{weight: 20}"), ["f.yaml:6: canary.versions.a.bento: is required"]),
    "a version without weight": (version("{bento: s}"), ["f.yaml:6: canary.versions.a.weight: is required"]),
    "a version with nothing": (version(""), ["f.yaml:6: canary.versions.a: null is not a mapping"]),
    "a version called main": (
        version("{bento: s, weight: 1}", "main"),
        [
            'f.yaml:6: canary.versions.main: "main" is the name of the main Bento, not of a canary version; '
            "give the version another key"
        ],
    ),
    "a version key with capitals": (
        version("{bento: s, weight: 1}", "A"),
        ['f.yaml:6: canary.versions.A: "A" is not a version key of 1 to 20 of a-z, 0-9 and -, with no - at the ends'],
    ),
    "weight 120": (
        version("{bento: s, weight: 120}"),
        ["f.yaml:6: canary.versions.a.weight: 120 is not a whole number from 0 to 100"],
    ),
    "weight -5": (
        version("{bento: s, weight: -5}"),
        ["f.yaml:6: canary.versions.a.weight: -5 is not a whole number from 0 to 100"],
    ),
    "weight 12.5": (
        version("{bento: s, weight: 12.5}"),
        ["f.yaml:6: canary.versions.a.weight: 12.5 is not a whole number from 0 to 100"],
    ),
    "weight true": (
        version("{bento: s, weight: true}"),
        ["f.yaml:6: canary.versions.a.weight: true is not a whole number from 0 to 100"],
    ),
    "weight in quotes": (
        version('{bento: s, weight: "20"}'),
        ['f.yaml:6: canary.versions.a.weight: "20" is not a whole number from 0 to 100; take the quotes off'],
    ),
    "weight with a percent sign": (
        version("{bento: s, weight: 20%}"),
        ['f.yaml:6: canary.versions.a.weight: "20%" is not a whole number from 0 to 100'],
    ),
    "weight null": (
        version("{bento: s, weight: }"),
        ["f.yaml:6: canary.versions.a.weight: null is not a whole number from 0 to 100"],
    ),
    "weights over 100": (
        version("{bento: s, weight: 70}") + "    b: {bento: s, weight: 80}\n",
        [
            "f.yaml:5: canary.versions: the weights add up to 150, which is over 100: a=70, b=80; "
            "main gets what they leave of 100"
        ],
    ),
    "no route_type": (
        GOOD + "canary:\n  versions: {a: {bento: s, weight: 1}}\n",
        ["f.yaml:3: canary.route_type: is required; write random, header or query"],
    ),
    "route_type cookie": (
        GOOD + "canary: {route_type: cookie}\n",
        ['f.yaml:3: canary.route_type: "cookie" is not random, header or query'],
    ),
    "route_type misspelt": (
        GOOD + "canary: {route_type: Header, route_by: X}\n",
        ["f.yaml:3: canary.route_type: \"Header\" is not random, header or query; did you mean 'header'?"],
    ),
    "header without route_by": (
        GOOD + "canary: {route_type: header}\n",
        ["f.yaml:3: canary.route_by: is required with route_type header; name the header whose value decides"],
    ),
    "query without route_by": (
        GOOD + "canary: {route_type: query, route_by: }\n",
        ["f.yaml:3: canary.route_by: is required with route_type query; name the query parameter whose value decides"],
    ),
    "a header's name with a space": (
        GOOD + "canary: {route_type: header, route_by: X User}\n",
        ['f.yaml:3: canary.route_by: "X User" is not the name of a header'],
    ),
    "an empty query name": (
        GOOD + 'canary: {route_type: query, route_by: ""}\n',
        ['f.yaml:3: canary.route_by: "" is not the name of a query parameter'],
    ),
    "min above max": (
        service("scaling: {min_replicas: 3, max_replicas: 2}"),
        ["f.yaml:5: services.S.scaling.min_replicas: 3 is more than max_replicas, which is 2"],
    ),
    "min above max in a version": (
        version("{bento: s, weight: 1, services: {S: {scaling: {min_replicas: 3, max_replicas: 2}}}}"),
        ["f.yaml:6: canary.versions.a.services.S.scaling.min_replicas: 3 is more than max_replicas, which is 2"],
    ),
    "max 0": (
        service("scaling: {min_replicas: 0, max_replicas: 0}"),
        ["f.yaml:5: services.S.scaling.max_replicas: 0 is not a whole number, 1 or more"],
    ),
    "min -1": (
        service("scaling: {min_replicas: -1}"),
        ["f.yaml:5: services.S.scaling.min_replicas: -1 is not a whole number, 0 or more"],
    ),
    "a window over an hour": (
        service("scaling: {policy: {scale_down_stabilization_window: 99999}}"),
        [
            "f.yaml:5: services.S.scaling.policy.scale_down_stabilization_window: "
            "99999 is not a whole number of seconds from 0 to 3600"
        ],
    ),
    "an unknown strategy": (
        service("deployment_strategy: Rolling"),
        [
            'f.yaml:5: services.S.deployment_strategy: "Rolling" is not RollingUpdate, Recreate, RampedSlowRollout '
            "or BestEffortControlledRollout; did you mean 'RollingUpdate'?"
        ],
    ),
    "timeout 0": (
        service("config_overrides: {traffic: {timeout: 0}}"),
        ["f.yaml:5: services.S.config_overrides.traffic.timeout: 0 is not a number of seconds above 0"],
    ),
    "timeout in quotes": (
        service('config_overrides: {traffic: {timeout: "30"}}'),
        [
            'f.yaml:5: services.S.config_overrides.traffic.timeout: "30" is not a number of seconds above 0; '
            "take the quotes off"
        ],
    ),
    "a queue without concurrency": (
        service("config_overrides: {traffic: {external_queue: true, max_concurrency: 4}}"),
        [
            "f.yaml:5: services.S.config_overrides.traffic.external_queue: true needs a concurrency; "
            "set concurrency beside it"
        ],
    ),
    "workers as a list": (
        service("config_overrides: {workers: [{gpu: 1}]}"),
        ['f.yaml:5: services.S.config_overrides.workers: a list is not a whole number, 1 or more, or "cpu_count"'],
    ),
    "memory in no unit": (
        service("config_overrides: {resources: {memory: 4gb}}"),
        ['f.yaml:5: services.S.config_overrides.resources.memory: "4gb" is not an amount of memory, like 512Mi or 2Gi'],
    ),
    "a GPU and a half": (
        service("config_overrides: {resources: {gpu: 1.5}}"),
        [
            "f.yaml:5: services.S.config_overrides.resources.gpu: 1.5 is not a whole number of GPUs, 1 or more, "
            "or a part of one, like 0.5"
        ],
    ),
    "more replicas on a node than Serve takes": (
        GOOD + "ray: {ingress: {max_replicas_per_node: 101}, placement: {main: {max_replicas_per_node: 0}}}\n",
        [
            "f.yaml:3: ray.ingress.max_replicas_per_node: 101 is not a whole number from 1 to 100",
            "f.yaml:3: ray.placement.main.max_replicas_per_node: 0 is not a whole number from 1 to 100",
        ],
    ),
    "envs as a mapping": (GOOD + "envs: {A: b}\n", ["f.yaml:3: envs: a mapping is not a list"]),
    "an env without value": (GOOD + "envs:\n  - name: A\n", ["f.yaml:4: envs[0].value: is required"]),
    "an env without name": (GOOD + "envs:\n  - value: A\n", ["f.yaml:4: envs[0].name: is required"]),
    "an env twice": (
        GOOD + "envs:\n  - {name: A, value: x}\n  - {name: B, value: x}\n  - {name: A, value: x}\n",
        ['f.yaml:6: envs[2].name: "A" is in this list already; it is in envs[0] too'],
    ),
    "an env that is null": (GOOD + "envs: [{name: A, value: }]\n", ["f.yaml:3: envs[0].value: null is not text"]),
    "two odd numbers in a line, one of them in a shared block": (
        version("{bento: s, weight: 010, services: {S: {scaling: &x {max_replicas: 010}}, T: {scaling: *x}}}"),
        [
            "f.yaml:6: canary.versions.a.weight: YAML reads 010 as the number 8; quote it, or write 8",
            "f.yaml:6: canary.versions.a.services.S.scaling.max_replicas: "
            "YAML reads 010 as the number 8; quote it, or write 8",
        ],
    ),
    "a number that only looks like one": (
        version("{bento: s, weight: 08_0}"),
        ['f.yaml:6: canary.versions.a.weight: "08_0" is not a whole number from 0 to 100'],
    ),
    "a fraction in quotes": (
        GOOD + 'ray: {ingress: {num_cpus: "0.5"}}\n',
        ['f.yaml:3: ray.ingress.num_cpus: "0.5" is not a number, 0 or more; take the quotes off'],
    ),
    "an env called 1A": (
        GOOD + "envs: [{name: 1A, value: x}]\n",
        ['f.yaml:3: envs[0].name: "1A" is not a name of letters, digits and _, with no digit first'],
    ),
    "an env of the host": (
        service("envs: [{name: BENTOML_HOME, value: x}]"),
        ['f.yaml:5: services.S.envs[0].name: "BENTOML_HOME" is reserved: the replica\'s own host sets it; remove it'],
    ),
    "an env of Ray": (
        version("{bento: s, weight: 1, envs: [{name: RAY_ADDRESS, value: x}]}"),
        [
            'f.yaml:6: canary.versions.a.envs[0].name: "RAY_ADDRESS" is reserved: the replica\'s own host sets it; '
            "remove it"
        ],
    ),
    "an env that is a boolean": (
        GOOD + "envs: [{name: A, value: on}]\n",
        ["f.yaml:3: envs[0].value: a boolean is not text; quote it"],
    ),
    "an env that is a fraction": (
        GOOD + "envs: [{name: A, value: 1.50}]\n",
        ["f.yaml:3: envs[0].value: a number is not text; quote it"],
    ),
    "services as a list": (GOOD + "services: [S]\n", ["f.yaml:3: services: a list is not a mapping"]),
    "a service that is a text": (
        GOOD + "services: {S: cpu.1}\n",
        ['f.yaml:3: services.S: "cpu.1" is not a mapping'],
    ),
    "a route prefix without slash": (
        GOOD + "ray: {route_prefix: api}\n",
        ['f.yaml:3: ray.route_prefix: "api" is not a path like / or /summaries, with no / at the end'],
    ),
    "a route prefix of Serve's own": (
        GOOD + "ray: {route_prefix: /-/routes}\n",
        ['f.yaml:3: ray.route_prefix: "/-/routes" is not a path like / or /summaries, with no / at the end'],
    ),
    "a port out of range": (
        GOOD + "ray: {http: {port: 80000}}\n",
        ["f.yaml:3: ray.http.port: 80000 is not a port from 1 to 65535"],
    ),
    "no ingress": (
        GOOD + "ray: {ingress: {num_replicas: 0}}\n",
        ["f.yaml:3: ray.ingress.num_replicas: 0 is not a whole number, 1 or more"],
    ),
    "more ingress replicas than there may be": (
        GOOD + "ray: {ingress: {num_replicas: 3, max_replicas: 2}}\n",
        ["f.yaml:3: ray.ingress.max_replicas: 2 is less than num_replicas, which is 3"],
    ),
    "fewer ingress replicas than there are by default": (
        GOOD + "ray: {ingress: {max_replicas: 1}}\n",
        ["f.yaml:3: ray.ingress.max_replicas: 1 is less than num_replicas, which is 2"],
    ),
    "an ingress that no load would ever scale": (
        GOOD + "ray: {ingress: {max_replicas: 4, target_ongoing_requests: 2000}}\n",
        [
            "f.yaml:3: ray.ingress.target_ongoing_requests: 2000 is more than max_ongoing_requests, which is 1000: no "
            "load would ever add a replica"
        ],
    ),
    "an application of no target": (
        version("{bento: s, weight: 1}") + "ray: {applications: {c: x}}\n",
        ["f.yaml:7: ray.applications.c: is not a target of this Deployment; the targets are main, a"],
    ),
    "one application for two targets": (
        version("{bento: s, weight: 1}") + "ray: {applications: {main: x, a: x}}\n",
        ['f.yaml:7: ray.applications.a: "x" already serves main'],
    ),
    "the ingress as a target": (
        GOOD + "ray: {applications: {main: s}}\n",
        ['f.yaml:3: ray.applications.main: "s" already serves the ingress'],
    ),
    "an environment of no target": (
        version("{bento: s, weight: 1}") + "ray: {dependencies: {aa: isolated}}\n",
        ["f.yaml:7: ray.dependencies.aa: is not a target of this Deployment; did you mean 'a'?"],
    ),
    "an environment of no kind": (
        GOOD + "ray: {dependencies: isolate}\n",
        [
            'f.yaml:3: ray.dependencies: "isolate" is not shared or isolated, or one of them for each target, '
            "like {a: isolated}; did you mean 'isolated'?"
        ],
    ),
    "a target's environment of no kind": (
        GOOD + "ray: {dependencies: {main: true}}\n",
        ["f.yaml:3: ray.dependencies.main: true is not shared or isolated"],
    ),
    "one mistake in a shared block": (
        version("{bento: s, weight: 1, services: &s {S: {instance_type: 1}}}")
        + "    b: {bento: s, weight: 1, services: *s}\n",
        [
            "f.yaml:6: canary.versions.a.services.S.instance_type: 1 is not text; quote it",
            "f.yaml:6: canary.versions.b.services.S.instance_type: 1 is not text; quote it",
        ],
    ),
}

MANY = """\
name: Summarization
acess_authorization: false
services:
  Summarization:
    instance_typ: cpu.2
    scaling: {min_replicas: 3, max_replicas: 1, policy: {scale_up_stabilization_window: "60"}}
    deployment_strategy: rollingupdate
    envs:
      - {name: A, value: true}
      - {name: A, value: 3}
    config_overrides:
      traffic: {timeout: -1, external_queue: true}
canary:
  route_type: header
  versions:
    a: {bento: summarization, weight: 60, weigth: 30}
    b: {bento: ., weight: 60}
    b: {bento: summarization, weight: 60%}
    c: {bento: summarization, weight: 50}
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.loads(text, "f.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_with_its_place_and_what_is_legal_there(text: str, said: list[str]) -> None:
    assert mistakes(text) == said


def test_all_mistakes_of_a_file_are_told_at_once_and_each_once_in_the_order_of_the_file() -> None:
    assert mistakes(MANY) == [
        'f.yaml:1: name: "Summarization" is not a name of 1 to 63 of a-z, 0-9 and -, with no - at the ends',
        "f.yaml:1: bento: is required",
        "f.yaml:2: acess_authorization: is not a known key; did you mean 'access_authorization'?",
        "f.yaml:5: services.Summarization.instance_typ: is not a known key; did you mean 'instance_type'?",
        "f.yaml:6: services.Summarization.scaling.policy.scale_up_stabilization_window: "
        '"60" is not a whole number of seconds from 0 to 3600; take the quotes off',
        "f.yaml:6: services.Summarization.scaling.min_replicas: 3 is more than max_replicas, which is 1",
        'f.yaml:7: services.Summarization.deployment_strategy: "rollingupdate" is not RollingUpdate, Recreate, '
        "RampedSlowRollout or BestEffortControlledRollout; did you mean 'RollingUpdate'?",
        "f.yaml:9: services.Summarization.envs[0].value: a boolean is not text; quote it",
        'f.yaml:10: services.Summarization.envs[1].name: "A" is in this list already; '
        "it is in services.Summarization.envs[0] too",
        "f.yaml:12: services.Summarization.config_overrides.traffic.timeout: -1 is not a number of seconds above 0",
        "f.yaml:12: services.Summarization.config_overrides.traffic.external_queue: true needs a concurrency; "
        "set concurrency beside it",
        "f.yaml:13: canary.route_by: is required with route_type header; name the header whose value decides",
        "f.yaml:15: canary.versions: the weights add up to 110, which is over 100: a=60, c=50; "
        "main gets what they leave of 100",
        "f.yaml:16: canary.versions.a.weigth: is not a known key; did you mean 'weight'?",
        'f.yaml:17: canary.versions.b.weight: "60%" is not a whole number from 0 to 100',
        "f.yaml:18: canary.versions.b: is given twice, first in line 17",
    ]


def test_a_problem_holds_its_parts_for_those_who_print_it_their_own_way() -> None:
    with pytest.raises(ConfigError) as caught:
        config.loads(version('{bento: s, weight: "20"}'))
    message = '"20" is not a whole number from 0 to 100'
    assert caught.value.problems == (Problem("canary.versions.a.weight", message, "20", 6, "take the quotes off"),)


def test_the_value_of_an_env_may_be_a_secret_and_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        config.loads(GOOD + "envs: [{name: A, value: 3.1415}]\n")
    assert "3.14" not in str(caught.value)
    assert caught.value.problems[0].value is MISSING


def test_plain_data_is_checked_as_a_file_is_but_has_no_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse({"name": "s", "bento": "s", "canary": {"versions": {"a": {"bento": "s", "weight": 101}}}}, "it")
    assert str(caught.value).splitlines() == [
        "it: canary.versions.a.weight: 101 is not a whole number from 0 to 100",
        "it: canary.route_type: is required; write random, header or query",
    ]


def test_the_model_can_not_be_made_past_the_rules() -> None:
    with pytest.raises(ConfigError, match=r"canary\.route_by: is required"):
        config.DeploymentFile(name="s", bento="s", canary=config.Canary(route_type="header"))


def test_keys_that_are_not_text_are_refused_in_plain_data_too() -> None:
    with pytest.raises(ConfigError, match="Keys should be strings"):
        config.parse({"name": "s", "bento": "s", 1: 2})  # type: ignore[dict-item]


def test_a_problem_without_a_file_is_told_by_its_path() -> None:
    assert str(Problem("a.b", "is wrong", hint="mend it")) == "a.b: is wrong; mend it"


keys = st.sampled_from(
    [*config.DeploymentFile.model_fields, *config.ServiceConfig.model_fields, *config.Canary.model_fields]
    + [*config.ConfigOverrides.model_fields, *config.Version.model_fields, "name", "value", "applications"]
    + ["dependencies"]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4) | keys, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(keys, anything, max_size=6))
def test_no_data_whatever_breaks_the_reader(data: dict[str, Any]) -> None:
    try:
        config.parse({"name": "s", "bento": "s"} | data).warnings()
    except ConfigError as error:
        assert len({problem.text() for problem in error.problems}) == len(error.problems)  # noqa: PT017


@given(st.text("ab:{}[],-&*!<>?|#'\"%@\n\t 10._~=", max_size=40) | st.text(max_size=20))
def test_no_text_whatever_breaks_the_reader(text: str) -> None:
    with pytest.raises(ConfigError):
        config.loads(text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "nothing.yaml")
    assert str(caught.value) == f"{tmp_path}/nothing.yaml: can't be read: No such file or directory"


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: can't be read: Is a directory"


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: é\n".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "latin.yaml")
    assert str(caught.value) == f"{tmp_path}/latin.yaml: is not UTF-8 text: byte 0xe9 at offset 6"


def test_aliases_that_multiply_are_stopped() -> None:
    laughs = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert mistakes("x0: &x0 [lol]\n" + laughs)[0].endswith("is not valid YAML: more than 20,000 values")


def test_a_file_nested_beyond_reason_is_refused() -> None:
    assert mistakes(GOOD + "envs: " + "[" * 5000 + "]" * 5000) == ["f.yaml: is nested too deeply"]
