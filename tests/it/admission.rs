//! The policy as admission policies: the very expressions, held to the table of what jobs may do by the reference
//! implementation of CEL, and by a real API server where it has them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use http::Method;
use pullet::config::{Config, Settings};
use pullet::protocol::group_of;
use pullet::trust::policy::{OWN_ACCOUNT, Policy};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::policy_cases::{Case, Input, Verdict, cases};

const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/k3s/admission.yaml");

/// Somebody who is not the agent.
const OTHER: &str = "gitops";

fn policy(settings: Value) -> Policy {
    let settings: Settings = serde_json::from_value(settings).unwrap();
    Config::new(settings, |_| None).unwrap().policy
}

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
    let interpreter = std::env::var_os("PULLET_PYTHON").expect("PULLET_PYTHON names a Python with tests/requirements.txt");
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
            // Each says why in the words of a result, and nothing else refuses it: neither another clause nor a fault.
            Verdict::Refuse => {
                let reason = format!("{}: ", case.reason.as_deref().unwrap());
                !refused.is_empty() && refused.iter().all(|message| message.starts_with(&reason))
            }
        };
        if !fits {
            wrong.push(format!("{}: {:?}: {refused:?}", case.name, case.reason));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
