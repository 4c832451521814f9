//! The policy as admission policies: the very expressions, held to the table of what jobs may do by the reference
//! implementation of CEL, and by a real API server where it has them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use http::Method;
use pullet::protocol::group_of;
use pullet::trust::policy::{OWN_ACCOUNT, Policy};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::apiserver::{ApiServer, wait_until};
use crate::policy_cases::{Case, Input, Verdict, cases, policy_of};

const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/k3s/admission.yaml");

/// Somebody who is not the agent.
const OTHER: &str = "gitops";

/// The objects, as a List.
fn objects(policy: &Policy) -> Value {
    serde_json::from_str(&pullet::target::kubernetes::list_as_json(&policy.admission()).unwrap()).unwrap()
}

/// What an expression sees of a request. Objects of further kinds carry the label of the control plane: only these are
/// judged.
fn request(operation: &str, object: Option<Value>, old: Option<Value>, types: Option<&str>) -> Value {
    let labelled = |object: Option<Value>| {
        object.map(|mut object| {
            if !object["apiVersion"].as_str().unwrap().contains(".vworkspace.io/") || object["kind"] == "Cluster" {
                object["metadata"]["labels"]["app.vworkspace.io/managed-by"] = json!("control-plane");
            }
            object
        })
    };
    let (object, old) = (labelled(object), labelled(old));
    let judged = object.as_ref().or(old.as_ref()).unwrap();
    let group = group_of(judged["apiVersion"].as_str().unwrap());
    let kind = judged["kind"].as_str().unwrap();
    let namespace = judged["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut space = json!({"metadata": {"name": namespace, "labels": {"managed-by": "vworkspace"}}});
    if let Some(types) = types {
        space["metadata"]["annotations"] = json!({"ops.vworkspace.io/allowed-types": types});
    }
    json!({
        "policy": 0, "object": object, "oldObject": old,
        "namespaceObject": if namespace.is_empty() { Value::Null } else { space },
        "request": {
            "operation": operation, "name": judged["metadata"]["name"], "namespace": namespace,
            "kind": {"group": group, "version": "v1alpha1", "kind": kind},
            "resource": {"group": group, "version": "v1alpha1", "resource": format!("{}s", kind.to_lowercase())},
            "userInfo": {"username": OTHER},
        },
    })
}

/// The request that a case becomes.
fn request_of(case: &Case) -> Value {
    let types = case.allowed_types.as_deref();
    match &case.input {
        Input::Delete(named) => {
            let object = json!({"apiVersion": named["apiVersion"], "kind": named["kind"],
                "metadata": {"name": named["name"], "namespace": named["namespace"]}});
            request("DELETE", None, Some(object), types)
        }
        _ => request("CREATE", case.manifest(), None, types),
    }
}

/// The messages of what refuses each request.
fn evaluate(policies: &[Value], requests: &[Value]) -> Vec<Vec<String>> {
    let interpreter =
        std::env::var_os("PULLET_PYTHON").expect("PULLET_PYTHON names a Python with tests/requirements.txt");
    let mut child = Command::new(interpreter)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/admission.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let order = json!({"policies": policies, "requests": requests}).to_string();
    child.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let answers: Vec<Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), requests.len());
    answers
}

#[test]
fn the_file_of_k3s_is_what_the_agent_prints() {
    let output = Agent::run_to_end(["admission"]);
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let kept = std::fs::read_to_string(DEFAULT).unwrap();
    assert_eq!(kept, printed, "pullet admission > k3s/admission.yaml");
    let output = Agent::run_to_end(["admission", "--json", "--allow-kind=/ConfigMap"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["pullet-applications", "pullet-applications", "pullet-kinds", "pullet-kinds"]);
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn the_expressions_end_every_case_as_the_policy_of_jobs_does() {
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.admission != Some(false)).collect();
    assert!(cases.len() >= 230, "{}", cases.len());
    let (mut policies, mut requests): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for case in &cases {
        let objects = objects(&case.policy());
        let at = policies.iter().position(|known| *known == objects).unwrap_or_else(|| {
            policies.push(objects);
            policies.len() - 1
        });
        let mut request = request_of(case);
        request["policy"] = json!(at);
        requests.push(request);
    }
    let mut wrong = Vec::new();
    for (case, refused) in cases.iter().zip(evaluate(&policies, &requests)) {
        let fits = match case.verdict {
            Verdict::Permit => refused.is_empty(),
            // The first says why in the words of a result, and none is an expression that has no value.
            Verdict::Refuse => {
                let reason = format!("{}: ", case.reason.as_deref().unwrap());
                refused.first().is_some_and(|message| message.starts_with(&reason))
                    && !refused.iter().any(|message| message.starts_with("fault: "))
            }
        };
        if !fits {
            wrong.push(format!("{}: {:?}: {refused:?}", case.name, case.reason));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Requests about an object of ours in the namespace shop.
fn about(kind: &str, operation: &str, object: Option<Value>, old: Option<Value>) -> Value {
    let group = if kind == "Operation" { "ops.vworkspace.io" } else { "apps.vworkspace.io" };
    let whole = |object: Option<Value>| {
        object.map(|mut object| {
            object["apiVersion"] = json!(format!("{group}/v1alpha1"));
            object["kind"] = json!(kind);
            object["metadata"]["name"] = json!("a");
            object["metadata"]["namespace"] = json!("shop");
            object
        })
    };
    request(operation, whole(object), whole(old), None)
}

/// An instance that nobody may make.
fn evil() -> Value {
    json!({"spec": {"values": {"inline": {"token": "x"}}}})
}

/// A request, and the reason for which it is refused, if it is, for each name.
fn are_judged(cases: &[(&str, Option<&str>, Value)]) {
    let requests: Vec<Value> = cases
        .iter()
        .map(|(.., request)| {
            let mut request = request.clone();
            if request["namespaceObject"]["metadata"]["labels"].is_null() {
                request["namespaceObject"]["metadata"].as_object_mut().unwrap().remove("labels");
            }
            request
        })
        .collect();
    let refused = evaluate(&[objects(&policy_of(&json!({})))], &requests);
    for ((name, reason, _), refused) in cases.iter().zip(refused) {
        match reason {
            None => assert_eq!(refused, Vec::<String>::new(), "{name}"),
            Some(reason) => assert!(refused.len() == 1 && refused[0].starts_with(reason), "{name}: {refused:?}"),
        }
    }
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn what_controllers_change_passes_and_a_spec_is_judged() {
    let with = |mut object: Value, member: &str, value: Value| {
        object["metadata"][member] = value;
        object
    };
    let instance = "ApplicationInstance";
    let cases = [
        (
            "its finalizer is set on what was there before",
            None,
            about(
                instance,
                "UPDATE",
                Some(with(evil(), "finalizers", json!(["apps.vworkspace.io/finalizer"]))),
                Some(evil()),
            ),
        ),
        (
            "and removed",
            None,
            about(instance, "UPDATE", Some(evil()), Some(with(evil(), "finalizers", json!(["x/y"])))),
        ),
        ("a status in the object itself changes nothing", None, {
            let mut object = evil();
            object["status"] = json!({"conditions": []});
            about(instance, "UPDATE", Some(object), Some(evil()))
        }),
        (
            "a change of the spec is judged",
            Some("InlineSecretMaterialRejected"),
            about(instance, "UPDATE", Some(evil()), Some(json!({"spec": {}}))),
        ),
        (
            "a spec where there was none",
            Some("InlineSecretMaterialRejected"),
            about(instance, "UPDATE", Some(evil()), Some(json!({}))),
        ),
        ("what is mended passes", None, about(instance, "UPDATE", Some(json!({"spec": {}})), Some(evil()))),
        ("a spec that is taken away", None, about(instance, "UPDATE", Some(json!({})), Some(evil()))),
        (
            "a new object with its own finalizers",
            None,
            about(
                "Operation",
                "CREATE",
                Some(with(json!({"spec": {"type": "Backup"}}), "finalizers", json!(["ops.vworkspace.io/finalizer"]))),
                None,
            ),
        ),
        (
            "a new object with a finalizer of somebody else",
            Some("MemberNotAllowed"),
            about(
                "Operation",
                "CREATE",
                Some(with(json!({"spec": {"type": "Backup"}}), "finalizers", json!(["x/y"]))),
                None,
            ),
        ),
        ("an owner and a generated name", None, {
            let object = with(json!({"spec": {"type": "Backup"}}), "ownerReferences", json!([{"name": "a"}]));
            about("Operation", "CREATE", Some(with(object, "generateName", json!("a-"))), None)
        }),
    ];
    are_judged(&cases);
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn who_asks_counts_by_the_whole_name_and_where_by_the_label() {
    let as_user = |mut request: Value, user: &str| {
        request["request"]["userInfo"]["username"] = json!(user);
        request
    };
    let elsewhere = |mut request: Value, labels: Value| {
        request["namespaceObject"]["metadata"]["labels"] = labels;
        request
    };
    let instance = "ApplicationInstance";
    let deletion = || about(instance, "DELETE", None, Some(json!({})));
    let cases = [
        ("the agent itself", None, as_user(about(instance, "CREATE", Some(evil()), None), OWN_ACCOUNT)),
        (
            "an account that is called alike",
            Some("InlineSecretMaterialRejected"),
            as_user(about(instance, "CREATE", Some(evil()), None), "system:serviceaccount:shop:pullet"),
        ),
        (
            "a namespace that is not managed",
            Some("NamespaceNotAllowed"),
            elsewhere(about(instance, "CREATE", Some(json!({})), None), json!({"managed-by": "Vworkspace"})),
        ),
        ("a namespace without labels", Some("NamespaceNotAllowed"), elsewhere(deletion(), Value::Null)),
        (
            "a namespace that goes takes its objects along",
            None,
            as_user(elsewhere(deletion(), json!({})), "system:serviceaccount:kube-system:namespace-controller"),
        ),
        (
            "the garbage collector",
            None,
            as_user(elsewhere(deletion(), json!({})), "system:serviceaccount:kube-system:generic-garbage-collector"),
        ),
        (
            "but it creates nothing",
            Some("InlineSecretMaterialRejected"),
            as_user(
                about(instance, "CREATE", Some(evil()), None),
                "system:serviceaccount:kube-system:namespace-controller",
            ),
        ),
    ];
    are_judged(&cases);
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn values_are_searched_as_deep_as_the_walk_goes_and_no_deeper_ones_are_let_in() {
    let nested = |levels: usize, inner: Value| {
        let values = (1..levels)
            .fold(inner, |value, level| if level % 2 == 0 { json!({"a": value}) } else { json!({"b": [value]}) });
        about("ApplicationInstance", "CREATE", Some(json!({"spec": {"values": {"inline": values}}})), None)
    };
    // A level of objects within lists is two.
    let mut verdicts = Vec::new();
    for levels in 1..12 {
        verdicts.push(nested(levels, json!({"replicas": "x"})));
        verdicts.push(nested(levels, json!({"token": "x"})));
    }
    let refused = evaluate(&[objects(&policy_of(&json!({})))], &verdicts);
    let admitted: Vec<bool> = refused.iter().map(Vec::is_empty).collect();
    let plain: Vec<bool> = admitted.iter().copied().step_by(2).collect();
    assert!(
        admitted.iter().skip(1).step_by(2).all(|admitted| !admitted),
        "a token is found or the values are too deep"
    );
    let deepest = plain.iter().take_while(|admitted| **admitted).count();
    assert_eq!(deepest, 7, "eleven levels of lists and objects: {plain:?}");
    assert!(!plain.iter().skip(deepest).any(|admitted| *admitted), "what is too deep is not let in");
}

/// How a server answers when an object of a case is made or removed; nothing stays.
pub(crate) fn ask_server(server: &ApiServer, case: &Case) -> Option<(u16, Value)> {
    let object = match &case.input {
        Input::Delete(_) | Input::Text(_) => return None,
        _ => case.manifest()?,
    };
    let (group, version) = object["apiVersion"].as_str()?.split_once('/')?;
    let plural = format!("{}s", object["kind"].as_str()?.to_lowercase());
    let namespace = object["metadata"]["namespace"].as_str()?;
    let path = format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}?dryRun=All");
    Some(server.request(Method::POST, &path, Some(&object)))
}

/// The cases that are about the two kinds and the default settings, as a server can be asked them.
pub(crate) fn askable() -> Vec<Case> {
    let is_ours = |case: &Case| {
        case.manifest().is_some_and(|object| {
            let kind = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
            [pullet::protocol::APPLICATION_INSTANCE, pullet::protocol::OPERATION].contains(&kind)
        })
    };
    let is_default = |case: &Case| case.has_default_policy() && case.allowed_types.is_none();
    cases().into_iter().filter(|case| case.admission != Some(false) && is_default(case) && is_ours(case)).collect()
}

#[test]
#[ignore = "needs a Kubernetes API server of 1.30: KUBEBUILDER_ASSETS"]
fn a_real_server_ends_every_case_as_the_policy_of_jobs_does() {
    let server = ApiServer::start();
    let (status, listed) = server.request(Method::GET, "/apis/admissionregistration.k8s.io/v1", None);
    assert_eq!(status, 200);
    let known = listed["resources"].as_array().unwrap().iter().any(|one| one["name"] == "validatingadmissionpolicies");
    assert!(known, "this server has no validatingadmissionpolicies");
    server.apply_crds();
    server.create_namespace("shop", &json!({"managed-by": "vworkspace"}));
    for object in objects(&policy_of(&json!({})))["items"].as_array().unwrap() {
        let plural = match object["kind"].as_str().unwrap() {
            "ValidatingAdmissionPolicy" => "validatingadmissionpolicies",
            _ => "validatingadmissionpolicybindings",
        };
        server.create(&format!("/apis/admissionregistration.k8s.io/v1/{plural}"), object);
    }
    let cases = askable();
    let refused = cases.iter().find(|case| case.verdict == Verdict::Refuse).unwrap();
    wait_until("the policies are in force", || ask_server(&server, refused).unwrap().0 >= 400);
    let mut wrong = Vec::new();
    for case in &cases {
        let (status, answer) = ask_server(&server, case).unwrap();
        let message = answer["message"].as_str().unwrap_or_default();
        let fits = match case.verdict {
            Verdict::Permit => status == 201,
            Verdict::Refuse => status >= 400 && message.contains(case.reason.as_deref().unwrap()),
        };
        if !fits {
            wrong.push(format!("{}: {status} {message}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
