//! The definitions of k3s/crds.yaml in a real API server: what it takes, what it fills in, what it refuses and with which
//! words.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use http::Method;
use serde_json::{Value, json};

use self::Bad::{Gone, Is, Long, Many};
use self::Kind::{Cluster, Instance, Operation};
use crate::apiserver::{ApiServer, unique, wait_until};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A kind that is defined here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cluster,
    Instance,
    Operation,
}

/// What stands in a field instead of what belongs there.
#[derive(Clone, Copy, Debug)]
enum Bad {
    /// Nothing.
    Gone,
    /// This JSON.
    Is(&'static str),
    /// So many characters.
    Long(usize),
    /// So many of what belongs there.
    Many(usize),
}

/// Each validation, by the field and the keyword that has it, and what it is there to refuse. `[]` is each item.
const ROWS: &[(Kind, &str, &str, Bad)] = &[
    (Cluster, "spec", "required", Gone),
    (Cluster, "spec.caBundle", "maxLength", Long(65_537)),
    (Cluster, "spec.caBundle", "pattern", Is(r#""none""#)),
    (Cluster, "spec.clusterId", "pattern", Is(r#""a b""#)),
    (Cluster, "spec.clusterId", "pattern", Long(64)),
    (Cluster, "spec.connectivityMode", "enum", Is(r#""teleport""#)),
    (Cluster, "spec.controlPlaneBaseUrl", "maxLength", Long(2_049)),
    (Cluster, "spec.controlPlaneBaseUrl", "pattern", Is(r#""control.example""#)),
    (Cluster, "spec.controlPlaneEndpoint", "maxLength", Long(2_049)),
    (Cluster, "spec.controlPlaneEndpoint", "pattern", Is(r#""ftp://control.example""#)),
    (Cluster, "spec.policy.charts", "maxItems", Many(65)),
    (Cluster, "spec.policy.charts[]", "maxLength", Long(1_025)),
    (Cluster, "spec.policy.charts[]", "pattern", Is(r#""http://charts.example""#)),
    (Cluster, "spec.policy.kinds", "maxItems", Many(65)),
    (Cluster, "spec.policy.kinds[]", "maxLength", Long(318)),
    (Cluster, "spec.policy.kinds[]", "pattern", Is(r#""ConfigMap""#)),
    (Cluster, "spec.policy.namespaces", "maxItems", Many(65)),
    (Cluster, "spec.policy.namespaces[]", "pattern", Is(r#""*""#)),
    (Cluster, "spec.policy.namespaces[]", "pattern", Is(r#""a*b""#)),
    (Cluster, "spec.policy.operations", "maxItems", Many(65)),
    (Cluster, "spec.policy.operations[]", "enum", Is(r#""backup""#)),
    (Cluster, "spec.proxy.noProxy", "maxItems", Many(65)),
    (Cluster, "spec.proxy.noProxy[]", "maxLength", Long(254)),
    (Cluster, "spec.proxy.noProxy[]", "minLength", Is(r#""""#)),
    (Cluster, "spec.proxy.noProxy[]", "pattern", Is(r#""a,b""#)),
    (Cluster, "spec.proxy.url", "maxLength", Long(2_049)),
    (Cluster, "spec.proxy.url", "pattern", Is(r#""http://me:secret@proxy.example""#)),
    (Cluster, "spec.proxy.url", "pattern", Is(r#""socks5://proxy.example""#)),
    (Cluster, "spec.pull.transport", "enum", Is(r#""pigeon""#)),
    (Cluster, "spec.pull.waitSeconds", "maximum", Is("301")),
    (Cluster, "spec.pull.waitSeconds", "minimum", Is("0")),
    (Cluster, "spec.registrationTokenSecretRef.key", "pattern", Is(r#""a/b""#)),
    (Cluster, "spec.registrationTokenSecretRef.name", "maxLength", Long(254)),
    (Cluster, "spec.registrationTokenSecretRef.name", "pattern", Is(r#""Token""#)),
    (Cluster, "spec.registrationTokenSecretRef.name", "required", Gone),
    (Cluster, "spec.rotateCredentials", "type", Is(r#""yes""#)),
    (Cluster, "spec.security.mtls.enabled", "type", Is("1")),
    (Cluster, "spec.security.requireSignedPayloads", "type", Is(r#""true""#)),
    (Cluster, "status.buffer.capacityBytes", "minimum", Is("-1")),
    (Cluster, "status.buffer.lost", "minimum", Is("-1")),
    (Cluster, "status.buffer.usedBytes", "minimum", Is("-1")),
    (Cluster, "status.credentialStatus.registeredAt", "format", Is(r#""yesterday""#)),
    (Cluster, "status.lastHeartbeat", "format", Is(r#""2026-01-31 12:00""#)),
    (Cluster, "status.phase", "enum", Is(r#""Elsewhere""#)),
    (Instance, "spec", "required", Gone),
    (Instance, "spec.appRef", "required", Gone),
    (Instance, "spec.appRef.catalogId", "maxLength", Long(254)),
    (Instance, "spec.appRef.catalogId", "minLength", Is(r#""""#)),
    (Instance, "spec.appRef.catalogId", "required", Gone),
    (Instance, "spec.chart.name", "maxLength", Long(254)),
    (Instance, "spec.chart.name", "minLength", Is(r#""""#)),
    (Instance, "spec.chart.name", "required", Gone),
    (Instance, "spec.chart.sourceType", "enum", Is(r#""git""#)),
    (Instance, "spec.chart.sourceType", "required", Gone),
    (Instance, "spec.chart.url", "maxLength", Long(2_049)),
    (Instance, "spec.chart.url", "minLength", Is(r#""""#)),
    (Instance, "spec.chart.url", "required", Gone),
    (Instance, "spec.chart.version", "maxLength", Long(129)),
    (Instance, "spec.chart.version", "minLength", Is(r#""""#)),
    (Instance, "spec.chart.version", "required", Gone),
    (Instance, "spec.integrations.ingress.host", "maxLength", Long(254)),
    (Instance, "spec.mode", "enum", Is(r#""absent""#)),
    (Instance, "spec.release.name", "maxLength", Long(54)),
    (Instance, "spec.release.namespace", "maxLength", Long(64)),
    (Instance, "spec.values", "anyOf", Is(r#"{"source":"secretRef","inline":{}}"#)),
    (Instance, "spec.values", "anyOf", Is(r#"{"source":"inline"}"#)),
    (Instance, "spec.values.configMapRef.key", "pattern", Is(r#""a b""#)),
    (Instance, "spec.values.configMapRef.name", "maxLength", Long(254)),
    (Instance, "spec.values.configMapRef.name", "minLength", Is(r#""""#)),
    (Instance, "spec.values.configMapRef.name", "required", Gone),
    (Instance, "spec.values.inline", "type", Is(r#""a: b""#)),
    (Instance, "spec.values.secretRef.key", "pattern", Long(254)),
    (Instance, "spec.values.secretRef.name", "maxLength", Long(254)),
    (Instance, "spec.values.secretRef.name", "minLength", Is(r#""""#)),
    (Instance, "spec.values.secretRef.name", "required", Gone),
    (Instance, "spec.values.source", "enum", Is(r#""git""#)),
    (Instance, "spec.values.source", "required", Gone),
    (Instance, "status.helmReleaseRef.name", "maxLength", Long(54)),
    (Instance, "status.helmReleaseRef.namespace", "maxLength", Long(64)),
    (Instance, "status.lastAppliedChart.sourceType", "enum", Is(r#""git""#)),
    (Instance, "status.lastReconcileTime", "format", Is(r#""noon""#)),
    (Operation, "spec", "required", Gone),
    (Operation, "spec.approvals.approvedAt", "format", Is(r#""today""#)),
    (Operation, "spec.approvals.approvedBy", "maxLength", Long(254)),
    (Operation, "spec.approvals.claim", "maxLength", Long(4_097)),
    (Operation, "spec.engine", "enum", Is(r#""magic""#)),
    (Operation, "spec.engine", "required", Gone),
    (Operation, "spec.parameters", "type", Is("[1]")),
    (Operation, "spec.targetRef", "required", Gone),
    (Operation, "spec.targetRef.apiVersion", "maxLength", Long(64)),
    (Operation, "spec.targetRef.apiVersion", "pattern", Is(r#""apps/v1""#)),
    (Operation, "spec.targetRef.apiVersion", "required", Gone),
    (Operation, "spec.targetRef.kind", "enum", Is(r#""Deployment""#)),
    (Operation, "spec.targetRef.kind", "required", Gone),
    (Operation, "spec.targetRef.name", "maxLength", Long(254)),
    (Operation, "spec.targetRef.name", "minLength", Is(r#""""#)),
    (Operation, "spec.targetRef.name", "required", Gone),
    (Operation, "spec.type", "enum", Is(r#""Destroy""#)),
    (Operation, "spec.type", "required", Gone),
    (Operation, "status.finishedAt", "format", Is("\"\"")),
    (Operation, "status.logsRef.url", "maxLength", Long(2_049)),
    (Operation, "status.phase", "enum", Is(r#""Done""#)),
    (Operation, "status.startedAt", "format", Is(r#""12:00""#)),
];

/// The same for the conditions of all.
const CONDITIONS: &[(&str, &str, Bad)] = &[
    ("status.conditions", "maxItems", Many(33)),
    ("status.conditions[].lastTransitionTime", "format", Is(r#""now""#)),
    ("status.conditions[].message", "maxLength", Long(32_769)),
    ("status.conditions[].observedGeneration", "minimum", Is("-1")),
    ("status.conditions[].reason", "maxLength", Long(1_025)),
    ("status.conditions[].status", "enum", Is(r#""true""#)),
    ("status.conditions[].status", "required", Gone),
    ("status.conditions[].type", "maxLength", Long(317)),
    ("status.conditions[].type", "minLength", Is(r#""""#)),
    ("status.conditions[].type", "required", Gone),
];

/// What an API server says when the keyword refuses, of any version.
fn words(keyword: &str) -> &'static [&'static str] {
    match keyword {
        "anyOf" => &["must validate at least one schema (anyOf)"],
        "enum" => &["Unsupported value"],
        "format" => &["must be of type date-time"],
        "maxItems" => &["should have at most", "must have at most", "Too many"],
        "maxLength" => &["should be at most", "may not be", "Too long"],
        "maximum" => &["should be less than or equal to"],
        "minLength" => &["should be at least"],
        "minimum" => &["should be greater than or equal to"],
        "pattern" => &["should match"],
        "required" => &["Required value"],
        "type" => &["must be of type"],
        other => panic!("{other}"),
    }
}

fn rows() -> Vec<(Kind, &'static str, &'static str, Bad)> {
    let of_all = |kind| CONDITIONS.iter().map(move |(path, keyword, bad)| (kind, *path, *keyword, *bad));
    ROWS.iter().copied().chain([Cluster, Instance, Operation].into_iter().flat_map(of_all)).collect()
}

impl Kind {
    /// Name of the definition.
    fn definition(self) -> &'static str {
        match self {
            Cluster => "clusters.ops.vworkspace.io",
            Instance => "applicationinstances.apps.vworkspace.io",
            Operation => "operations.ops.vworkspace.io",
        }
    }

    fn collection(self) -> String {
        let (plural, group) = self.definition().split_once('.').unwrap();
        let space = if self == Cluster { "" } else { "/namespaces/default" };
        format!("/apis/{group}/v1alpha1{space}/{plural}")
    }

    /// An object with something in every field that has a bound.
    fn full(self) -> Value {
        let chart = json!({"sourceType": "oci", "url": "oci://charts.example", "name": "wiki", "version": "1.0.0"});
        let condition = json!([{
            "type": "Ready", "status": "True", "reason": "Fine", "message": "m", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        }]);
        let (kind, spec, mut status) = match self {
            Cluster => (
                "Cluster",
                json!({
                    "caBundle": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "clusterId": "clinic-7",
                    "connectivityMode": "pull", "controlPlaneBaseUrl": "https://a", "controlPlaneEndpoint": "https://a",
                    "policy": {
                        "charts": ["*", "catalog:wiki", "oci://charts.example/*", "https://charts.example#wiki@1"],
                        "kinds": ["/ConfigMap", "apps/Deployment"], "namespaces": ["clinic-7", "clinic-*", "a"],
                        "operations": ["Backup"],
                    },
                    "proxy": {"url": "http://proxy.example:3128", "noProxy": [".example", "10.0.0.0/8"]},
                    "pull": {"transport": "longpoll", "waitSeconds": 300},
                    "registrationTokenSecretRef": {"name": "token", "key": "registrationToken"}, "rotateCredentials": true,
                    "security": {
                        "mtls": {"enabled": true}, "requireEncryptedSecretPayloads": true, "requireSignedPayloads": false,
                    },
                }),
                json!({
                    "agentVersion": "1", "buffer": {"capacityBytes": 1, "lost": 0, "usedBytes": 1},
                    "credentialStatus": {
                        "registeredAt": "2026-01-31T12:00:00Z", "registrationTokenConsumed": true, "secretName": "s",
                        "secretNamespace": "n",
                    },
                    "credentialsSecretRef": {"name": "s", "namespace": "n"}, "lastHeartbeat": "2026-01-31T12:00:00Z",
                    "observedGeneration": 1, "observedToken": "0123456789abcdef", "phase": "Connected",
                }),
            ),
            Instance => (
                "ApplicationInstance",
                json!({
                    "appRef": {"catalogId": "wiki"}, "chart": chart,
                    "integrations": {
                        "certManager": {"enabled": true}, "externalSecrets": {"enabled": false},
                        "ingress": {"enabled": true, "host": "wiki.example"},
                    },
                    "mode": "managed", "release": {"name": "wiki", "namespace": "shop"},
                    "values": {
                        "source": "inline", "inline": {"any": [{"thing": null}, 1]}, "secretRef": {"name": "s", "key": "k"},
                        "configMapRef": {"name": "c", "key": "k.yaml"},
                    },
                }),
                json!({
                    "endpoints": [{"name": "web", "url": "https://a", "type": "https", "notes": "n"}],
                    "helmReleaseRef": {"name": "wiki", "namespace": "shop"}, "lastAppliedChart": chart,
                    "lastReconcileTime": "2026-01-31T12:00:00Z", "observedGeneration": 1,
                }),
            ),
            Operation => (
                "Operation",
                json!({
                    "approvals": {
                        "required": true, "claim": "c", "approvedBy": "somebody", "approvedAt": "2026-01-31T12:00:00Z",
                    },
                    "engine": "helmHookJob", "parameters": {"any": [{"thing": null}, 1]},
                    "targetRef": {"apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance", "name": "wiki"},
                    "type": "RunCommand",
                }),
                json!({
                    "engineRef": {"kind": "Job", "name": "a", "namespace": "b"}, "finishedAt": "2026-01-31T12:00:00Z",
                    "logsRef": {"kind": "Pod", "name": "a", "namespace": "b", "url": "https://a"},
                    "outputs": {"any": ["thing"]}, "phase": "Succeeded", "startedAt": "2026-01-31T12:00:00Z",
                }),
            ),
        };
        status["conditions"] = condition;
        let group = self.definition().split_once('.').unwrap().1;
        json!({
            "apiVersion": format!("{group}/v1alpha1"), "kind": kind,
            "metadata": {"name": format!("a-{}", unique())}, "spec": spec, "status": status,
        })
    }

    fn create(self, server: &ApiServer, object: &Value) -> (u16, Value) {
        server.request(Method::POST, &self.collection(), Some(object))
    }

    /// Makes the object with all that is in it.
    fn create_full(self, server: &ApiServer) -> (String, Value) {
        let full = self.full();
        let (status, answer) = self.create(server, &full);
        assert_eq!(status, 201, "{self:?}: {answer}");
        let path = format!("{}/{}", self.collection(), full["metadata"]["name"].as_str().unwrap());
        let (status, answer) = set_status(server, &path, &full["status"]);
        assert_eq!(status, 200, "{self:?}: {answer}");
        (path, full)
    }
}

fn set_status(server: &ApiServer, path: &str, status: &Value) -> (u16, Value) {
    server.request(Method::PATCH, &format!("{path}/status"), Some(&json!({"status": status})))
}

/// A server that has them and no other definition.
fn server() -> &'static ApiServer {
    static SERVER: OnceLock<ApiServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = ApiServer::start();
        define(&server);
        server
    })
}

/// Applies k3s/crds.yaml and waits until it is served.
pub(crate) fn define(server: &ApiServer) {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("k3s/crds.yaml")).unwrap();
    let minor = server.get("/version")["minor"].as_str().unwrap().trim_end_matches('+').parse::<u32>().unwrap();
    // As docs/resources.md says it of servers that do not know these rules.
    let text: String =
        text.split_inclusive('\n').filter(|line| minor >= 25 || !line.contains("x-kubernetes-validations")).collect();
    for document in text.split("\n---\n") {
        let name = document.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap();
        let path = format!("{DEFINITIONS}/{name}?fieldManager=somebody&force=true");
        let (status, answer) =
            server.request_as(Method::PATCH, &path, "application/apply-patch+yaml", document.as_bytes().to_vec());
        assert!(matches!(status, 200 | 201), "{name}: {answer}");
        wait_until("it is established", || {
            let conditions = server.get(&format!("{DEFINITIONS}/{name}"))["status"]["conditions"].clone();
            let conditions = conditions.as_array().cloned().unwrap_or_default();
            // No word of what it would have to be is left.
            assert!(conditions.iter().all(|condition| condition["type"] != "NonStructuralSchema"), "{conditions:?}");
            conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
        });
    }
    for kind in [Cluster, Instance, Operation] {
        wait_until("it is served", || server.request(Method::GET, &kind.collection(), None).0 == 200);
    }
}

/// Puts something into a field, or takes it away; below a list, into its first item.
fn spoil(object: &mut Value, path: &str, bad: Bad) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let (name, is_item) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
    let Some(rest) = rest else {
        let field = if is_item { &mut object[name][0] } else { &mut object[name] };
        match bad {
            Gone => {
                object.as_object_mut().unwrap().remove(name).unwrap();
            }
            Is(text) => *field = serde_json::from_str(text).unwrap(),
            Long(length) => *field = "x".repeat(length).into(),
            Many(count) => *field = vec![field[0].clone(); count].into(),
        }
        return;
    };
    spoil(if is_item { &mut object[name][0] } else { &mut object[name] }, rest, bad);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn each_validation_refuses_what_it_is_there_for_and_names_the_field() {
    let server = server();
    let there: Vec<(String, Value)> = [Cluster, Instance, Operation].map(|kind| kind.create_full(server)).into();
    for (kind, path, keyword, bad) in rows() {
        let (place, full) = &there[kind as usize];
        let mut object = full.clone();
        object["metadata"]["name"] = format!("a-{}", unique()).into();
        spoil(&mut object, path, bad);
        let (status, answer) = if path.starts_with("spec") {
            kind.create(server, &object)
        } else {
            set_status(server, place, &object["status"])
        };
        let row = format!("{kind:?} {path} {keyword} {bad:?}");
        assert_eq!(status, 422, "{row}: {answer}");
        // An older server names a list, a newer one its item; an alternative has no field of its own.
        let field = path.split("[]").next().unwrap();
        let causes = answer["details"]["causes"].as_array().unwrap();
        let is_told = causes.iter().any(|cause| {
            let (named, message) = (cause["field"].as_str().unwrap_or_default(), cause["message"].as_str().unwrap());
            (named.starts_with(field) || keyword == "anyOf")
                && words(keyword).iter().any(|words| message.contains(words))
        });
        assert!(is_told, "{row}: {answer}");
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn there_is_a_row_for_each_validation() {
    let rows: BTreeSet<(Kind, String, String)> =
        rows().into_iter().map(|(kind, path, keyword, _)| (kind, path.to_owned(), keyword.to_owned())).collect();
    let mut count = 0;
    for kind in [Cluster, Instance, Operation] {
        let definition = server().get(&format!("{DEFINITIONS}/{}", kind.definition()));
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        validations("", schema, &mut |path, keyword| {
            count += 1;
            assert!(rows.contains(&(kind, path.clone(), keyword.to_owned())), "{kind:?} {path} {keyword}");
        });
    }
    assert!(count > 120, "{count}");
}

/// Each keyword of a schema that refuses something, but for types.
fn validations(path: &str, schema: &Value, found: &mut impl FnMut(String, &'static str)) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for keyword in ["anyOf", "enum", "maxItems", "maxLength", "maximum", "minLength", "minimum", "pattern"] {
        if schema.get(keyword).is_some() {
            found(path.to_owned(), keyword);
        }
    }
    if schema["format"] == "date-time" {
        found(path.to_owned(), "format");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        found(below(name.as_str().unwrap()), "required");
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        validations(&below(name), member, found);
    }
    if let Some(items) = schema.get("items") {
        validations(&format!("{path}[]"), items, found);
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn what_is_left_out_gets_its_default_and_what_is_there_is_kept() {
    let server = server();
    for kind in [Cluster, Instance, Operation] {
        let (path, full) = kind.create_full(server);
        let kept = server.get(&path);
        assert_eq!(
            (&kept["spec"], &kept["status"]),
            (&full["spec"], &full["status"]),
            "{kind:?}: a field is not defined"
        );
    }
    let made = |kind: Kind, spec: Value| {
        let mut object = kind.full();
        object["spec"] = spec;
        let (status, answer) = kind.create(server, &object);
        assert_eq!(status, 201, "{answer}");
        answer["spec"].clone()
    };
    assert_eq!(made(Cluster, json!({})), json!({"connectivityMode": "pull"}));
    let spec =
        made(Cluster, json!({"registrationTokenSecretRef": {"name": "t"}, "security": {"mtls": {}}, "later": 1}));
    let expected = json!({
        "connectivityMode": "pull", "registrationTokenSecretRef": {"name": "t", "key": "registrationToken"},
        "security": {"mtls": {"enabled": false}},
    });
    assert_eq!(spec, expected);
    let spec = made(Instance, json!({"appRef": {"catalogId": "wiki"}, "mode": null}));
    assert_eq!(spec, json!({"appRef": {"catalogId": "wiki"}, "mode": "managed"}));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn null_is_nothing_wherever_something_may_be_left_out() {
    let server = server();
    for kind in [Cluster, Instance, Operation] {
        let definition = server.get(&format!("{DEFINITIONS}/{}", kind.definition()));
        let schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
        let mut object = kind.full();
        let optional = nullify(&mut object["spec"], &schema);
        assert!(optional > 4, "{kind:?}: {optional}");
        let (status, answer) = kind.create(server, &object);
        assert_eq!(status, 201, "{kind:?}: {answer}");
    }
}

/// Sets each value at the end of a path to null where something may be left out, but for one of a few words, and counts them.
fn nullify(value: &mut Value, schema: &Value) -> usize {
    let Some(members) = value.as_object_mut() else { return 0 };
    let mut count = 0;
    for (name, member) in members {
        let inner = &schema["properties"][name];
        if inner.get("properties").is_some() {
            count += nullify(member, inner);
        } else if inner["nullable"] == true && name != "inline" {
            *member = Value::Null;
            count += 1;
        }
    }
    count
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_condition_may_say_nothing_but_its_status() {
    let server = server();
    for kind in [Cluster, Instance, Operation] {
        let (path, _) = kind.create_full(server);
        for condition in [
            json!({"type": "Ready", "status": "True", "reason": "", "message": ""}),
            json!({"type": "Ready", "status": "True", "reason": null, "message": null}),
            json!({"type": "Ready", "status": "Unknown"}),
        ] {
            let (status, answer) = set_status(server, &path, &json!({"conditions": [condition]}));
            assert_eq!(status, 200, "{kind:?}: {answer}");
        }
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn columns_and_short_names_are_served() {
    let server = server();
    for (kind, path, short, columns) in [
        (
            Cluster,
            "/apis/ops.vworkspace.io/v1alpha1",
            Value::Null,
            json!(["Name", "Phase", "Connected", "Mode", "Age"]),
        ),
        (
            Instance,
            "/apis/apps.vworkspace.io/v1alpha1",
            json!(["appinst"]),
            json!(["Name", "App", "Ready", "Version", "Age"]),
        ),
        (
            Operation,
            "/apis/ops.vworkspace.io/v1alpha1",
            json!(["op"]),
            json!(["Name", "Type", "Target", "Phase", "Age"]),
        ),
    ] {
        let plural = kind.definition().split_once('.').unwrap().0;
        let resources = server.get(path)["resources"].as_array().cloned().unwrap();
        let served = resources.iter().find(|resource| resource["name"] == plural).unwrap();
        assert_eq!(served["shortNames"], short);
        assert_eq!(served["namespaced"], kind != Cluster);
        assert!(resources.iter().any(|resource| resource["name"] == format!("{plural}/status")));
        let definition = server.get(&format!("{DEFINITIONS}/{}", kind.definition()));
        let printed = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array().cloned().unwrap();
        let mut names = vec![json!("Name")];
        names.extend(printed.into_iter().map(|column| column["name"].clone()));
        assert_eq!(Value::from(names), columns);
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_write_of_the_object_leaves_its_status_and_the_other_way_round() {
    let server = server();
    for kind in [Cluster, Instance, Operation] {
        let (path, full) = kind.create_full(server);
        let patch = json!({"metadata": {"labels": {"a": "b"}}, "status": {"conditions": []}});
        assert_eq!(server.request(Method::PATCH, &path, Some(&patch)).0, 200);
        assert_eq!(server.get(&path)["status"], full["status"], "{kind:?}");
        let generation = server.get(&path)["metadata"]["generation"].clone();
        let patch = json!({"spec": {"rotateCredentials": null}, "status": {"conditions": []}});
        assert_eq!(server.request(Method::PATCH, &format!("{path}/status"), Some(&patch)).0, 200);
        let kept = server.get(&path);
        assert_eq!((&kept["spec"], &kept["metadata"]["generation"]), (&full["spec"], &generation), "{kind:?}");
        assert_eq!(kept["status"]["conditions"], json!([]));
    }
}
