//! `pullet doctor` in a cluster: each check sees the one thing that is broken, and no other one does.

use std::fs;
use std::net::TcpListener;

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, wait_until};
use crate::doctor::{Seen, doctor};
use crate::fake_api::{FakeApi, answer, chunk, chunked};
use crate::scene::{SOON, quick};
use crate::testbed::Testbed;

const ACCOUNT: &str = "system:serviceaccount:vworkspace-system:pullet";

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/pullet";

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

const RECORD: &str = "/api/v1/namespaces/vworkspace-system/configmaps/vworkspace-agent-holder";

/// A registered node that is to apply to a cluster.
fn node(testbed: &Testbed) -> Setup {
    let setup = quick(testbed);
    assert_eq!(setup.run_to_end("register").status.code(), Some(0));
    setup.without("--target").without("--directory").without("--allow-kind")
}

/// What is so with every server of this age, and as long as no agent runs.
const USUAL: [&str; 2] = ["k3s", "agent"];

fn beside(seen: &Seen, broken: &[&str]) {
    seen.nothing_beside(&[&USUAL, broken].concat());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn what_is_broken_in_a_cluster_is_seen_and_nothing_else() {
    let api = ApiServer::start();
    api.create_definitions();
    api.apply_manifest("k3s/rbac.yaml");
    let testbed = Testbed::start();
    let bare = node(&testbed);
    let setup = bare.clone().flag("--kubeconfig", api.kubeconfig_for(ACCOUNT, "system:authenticated"));
    wait_until("the kinds are served", || doctor(&setup).find("definitions")[1] == "ok");
    well(&api, &bare, &setup);
    rights(&api, &setup);
    definitions(&api, &bare, &setup);
    holder(&api, &setup);
    runs(&testbed, &setup);
    by_a_cluster(&api, &setup);
    unreachable(&api, &bare, &setup);
}

fn well(api: &ApiServer, bare: &Setup, setup: &Setup) {
    let seen = doctor(setup);
    beside(&seen, &[]);
    seen.tells("api-server", "ok", &["https://127.0.0.1:", "answers"]).tells(
        "rights",
        "ok",
        &["all 18 that the settings need"],
    );
    seen.tells("k3s", "note", &["Kubernetes v1.20", "1.30"]).tells("admission", "skipped", &["has none"]);
    seen.tells("definitions", "ok", &["served as v1alpha1"]).tells("one-agent", "ok", &["nobody acts"]);
    let admin = doctor(&bare.clone().flag("--kubeconfig", api.kubeconfig()));
    beside(&admin, &["rights"]);
    admin.tells("rights", "note", &["may do anything", "pullet rbac"]).tells(
        "definitions",
        "ok",
        &["those of this program"],
    );
    let more = doctor(&setup.clone().flag("--allow-kind", "networking.k8s.io/Ingress"));
    beside(&more, &["rights"]);
    more.tells("rights", "failed", &["6 of 24 are missing: may not get ingresses.networking.k8s.io"]);
}

fn rights(api: &ApiServer, setup: &Setup) {
    let rules = api.get(ROLE)["rules"].clone();
    for (at, verb, words) in [
        (0, "patch", "1 of 18 are missing: may not patch applicationinstances.apps.vworkspace.io"),
        (2, "create", "1 of 18 are missing: may not create namespaces"),
    ] {
        let mut less = rules.clone();
        less[at]["verbs"].as_array_mut().unwrap().retain(|known| known != verb);
        assert_eq!(api.request(Method::PATCH, ROLE, Some(&json!({"rules": less}))).0, 200);
        let mut seen = doctor(setup);
        // The authorizer learns of it a moment later.
        wait_until("the right is gone", || {
            seen = doctor(setup);
            seen.find("rights")[1] == "failed"
        });
        seen.tells("rights", "failed", &[words, "pullet rbac"]);
        beside(&seen, &["rights"]);
    }
    assert_eq!(api.request(Method::PATCH, ROLE, Some(&json!({"rules": rules}))).0, 200);
    wait_until("the rights are back", || doctor(setup).find("rights")[1] == "ok");
}

fn definitions(api: &ApiServer, bare: &Setup, setup: &Setup) {
    let path = format!("{DEFINITIONS}/operations.ops.vworkspace.io");
    let mut changed = api.get(&path);
    let versions = &mut changed["spec"]["versions"];
    versions[0]["schema"]["openAPIV3Schema"]["description"] = json!("Another one.");
    assert_eq!(api.request(Method::PATCH, &path, Some(&json!({"spec": {"versions": versions}}))).0, 200);
    let admin = bare.clone().flag("--kubeconfig", api.kubeconfig());
    let seen = doctor(&admin);
    seen.tells(
        "definitions",
        "warning",
        &["of another version: Operation", "pullet crds | kubectl apply --validate=false"],
    );
    beside(&seen, &["definitions", "rights"]);
    assert_eq!(api.request(Method::DELETE, &path, None).0, 200);
    for setup in [setup, &admin] {
        let mut seen = doctor(setup);
        wait_until("it is gone", || {
            seen = doctor(setup);
            seen.find("definitions")[1] == "failed"
        });
        seen.tells("definitions", "failed", &["not defined: Operation"]);
        beside(&seen, &["definitions", "rights"]);
    }
    let text = fs::read_to_string("k3s/crds.yaml").unwrap();
    let document = text.split("\n---\n").find(|document| document.contains("operations.ops.vworkspace.io")).unwrap();
    wait_until("it is back", || {
        api.request_as(Method::POST, DEFINITIONS, "application/yaml", document.into()).0 == 201
    });
    wait_until("it is served", || doctor(setup).find("definitions")[1] == "ok");
}

fn holder(api: &ApiServer, setup: &Setup) {
    let name = |data: &Value| assert_eq!(api.request(Method::PATCH, RECORD, Some(&json!({"data": data}))).0, 200);
    let machine = json!({"agent": "another", "boot": "b", "namespace": null, "pod": null, "uid": null});
    name(&machine);
    let seen = doctor(setup);
    seen.tells("one-agent", "note", &["the agent another, outside of a pod acts", "none has acted from here"]);
    beside(&seen, &["one-agent"]);
    let id = setup.state_dir().join("holder");
    fs::write(&id, "0123456789abcdef0123456789abcdef").unwrap();
    let seen = doctor(setup);
    seen.tells("one-agent", "failed", &["the agent another", "this one does not", "of two agents keep one"]);
    beside(&seen, &["one-agent"]);
    name(&json!({"agent": "0123456789abcdef0123456789abcdef", "boot": "before"}));
    beside(&doctor(setup), &[]);
    name(&json!({"agent": null, "boot": null, "namespace": "vworkspace-system", "pod": "gone", "uid": "u"}));
    let seen = doctor(setup);
    seen.tells("one-agent", "note", &["the agent in pod vworkspace-system/gone acted, and is gone"]);
    beside(&seen, &["one-agent"]);
    assert_eq!(api.request(Method::DELETE, RECORD, None).0, 200);
    let seen = doctor(setup);
    seen.tells("one-agent", "warning", &["no record of who acts", "pullet rbac"]);
    beside(&seen, &["one-agent"]);
    fs::remove_file(id).unwrap();
    api.apply_manifest("k3s/rbac.yaml");
}

fn runs(testbed: &Testbed, setup: &Setup) {
    let mut agent = setup.spawn();
    agent.wait_for_log("this agent acts on the cluster", SOON);
    testbed.held_poll(SOON);
    wait_until("its status is written", || doctor(setup).find("agent")[1] == "ok");
    let seen = doctor(setup);
    seen.tells("one-agent", "ok", &["this agent is the one that acts"]);
    seen.nothing_beside(&["k3s"]);
    agent.stop();
}

/// Endpoint, token and authority come from the Cluster, and the credential lies in its Secret.
fn by_a_cluster(api: &ApiServer, setup: &Setup) {
    let testbed = Testbed::start();
    api.apply_manifest("k3s/cluster.yaml");
    let by = setup.clone().without("--endpoint").without("--ca-file").without("--token-file").without("--state-dir");
    let by = by.flag("--cluster-resource", "*").flag("--state-dir", setup.home().join("by-cluster"));
    wait_until("the rights are known", || doctor(&by).find("rights")[1] == "ok");
    let seen = doctor(&by);
    seen.tells("endpoint", "failed", &["no Cluster says where", "kubectl get clusters"]);
    seen.tells("credential", "failed", &["not registered", "the Secret that the Cluster names"]).tells(
        "rights",
        "ok",
        &["all 26"],
    );
    let token = json!({"stringData": {"registrationToken": testbed.issue_token(Some("by-cluster"))}});
    let secret = "/api/v1/namespaces/vworkspace-system/secrets/vworkspace-registration-token";
    assert_eq!(api.request(Method::PATCH, secret, Some(&token)).0, 200);
    let spec = json!({
        "clusterId": "by-cluster", "controlPlaneEndpoint": testbed.endpoint(), "caBundle": testbed.ca_pem(),
        "registrationTokenSecretRef": {"name": "vworkspace-registration-token"},
    });
    let object = json!({
        "apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster", "metadata": {"name": "by-cluster"}, "spec": spec,
    });
    api.create("/apis/ops.vworkspace.io/v1alpha1/clusters", &object);
    let mut agent = by.spawn();
    testbed.held_poll(SOON);
    wait_until("its status is written", || doctor(&by).find("agent")[1] == "ok");
    let seen = doctor(&by);
    seen.tells("credential", "ok", &["of by-cluster, in its Secret"]).tells("tls", "ok", &["Testbed authority"]);
    seen.nothing_beside(&["k3s"]);
    agent.stop();
    beside(&doctor(&by), &[]);
}

fn unreachable(api: &ApiServer, bare: &Setup, setup: &Setup) {
    let with = |kubeconfig: std::path::PathBuf| doctor(&bare.clone().flag("--kubeconfig", kubeconfig));
    let seen = with(api.kubeconfig_with(api.port(), "{token: nobody-knows-this-token}"));
    seen.tells("api-server", "failed", &["refused our credential", "pullet setup makes another token"]);
    seen.tells("rights", "skipped", &["because of api-server"]);
    beside(&seen, &["api-server"]);
    let seen = with("/nonexistent/kubeconfig".into());
    seen.tells("api-server", "failed", &["/nonexistent/kubeconfig cannot be read", "account pullet"]);
    beside(&seen, &["api-server"]);
    api.stop();
    let seen = doctor(setup);
    seen.tells("api-server", "failed", &["no connection", "does k3s run"]);
    beside(&seen, &["api-server"]);
}

/// An API server that takes what it gets and says nothing, for an agent that goes by a Cluster: what is not its own is looked at.
#[test]
fn an_api_server_that_swallows_is_the_one_that_is_blamed() {
    let testbed = Testbed::start();
    let swallowing = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = quick(&testbed).without("--target").without("--directory").without("--allow-kind");
    let kubeconfig = setup.home().join("kubeconfig");
    let server = swallowing.local_addr().unwrap();
    let text = json!({
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": format!("https://{server}")}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "users": [{"name": "it", "user": {"token": "a-token-0123456789abcdef"}}],
    });
    fs::write(&kubeconfig, text.to_string()).unwrap();
    let setup = setup.without("--token-file").flag("--kubeconfig", kubeconfig).flag("--cluster-resource", "*");
    let seen = doctor(&setup);
    seen.tells("api-server", "failed", &["does not answer"]).tells(
        "credential",
        "failed",
        &["no answer", "see api-server"],
    );
    seen.tells("protocol", "ok", &["the agent API answers"]).tells("clock", "ok", &["agrees with the control plane"]);
    beside(&seen, &["api-server", "credential", "state"]);
    let seen = doctor(&setup.without("--endpoint"));
    seen.tells("endpoint", "failed", &["the API server does not tell", "see api-server"]).tells(
        "clock",
        "skipped",
        &["nobody was heard"],
    );
    beside(&seen, &["endpoint", "api-server", "credential", "state"]);
}

/// What a server of another age says, and one that says too much.
#[test]
fn admission_policies_are_compared_with_those_of_the_settings() {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    let printed = Agent::run_to_end(["admission", "--json"]);
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    for (change, verdict, words) in [
        ("none", "ok", "held to these settings as well"),
        ("spec", "warning", "for other settings"),
        ("absent", "note", "not there"),
        ("forbidden", "skipped", "this account may not see it"),
        ("unknown", "skipped", "has none"),
        ("endless", "skipped", "did not say"),
        ("garbage", "skipped", "did not say"),
    ] {
        let printed = printed.clone();
        let server = FakeApi::start(move |asked, out| {
            let path = asked.path.as_str();
            let refuse = |out, code: &str| answer(out, code, "{}");
            if path == "/version" {
                return answer(out, "200 OK", r#"{"gitVersion":"v1.33.1+k3s1"}"#);
            }
            if path.ends_with("selfsubjectaccessreviews") {
                let all = String::from_utf8_lossy(&asked.body).contains("\"verb\":\"*\"");
                return answer(out, "201 Created", &json!({"status": {"allowed": !all}}).to_string());
            }
            if path == "/apis/admissionregistration.k8s.io/v1" {
                let name = if change == "unknown" { "webhooks" } else { "validatingadmissionpolicies" };
                return answer(out, "200 OK", &json!({"resources": [{"name": name}]}).to_string());
            }
            if path.starts_with("/apis/admissionregistration") {
                let name = path.rsplit('/').next().unwrap();
                let collection = if path.contains("bindings/") {
                    "ValidatingAdmissionPolicyBinding"
                } else {
                    "ValidatingAdmissionPolicy"
                };
                let mut items = printed["items"].as_array().unwrap().iter();
                let found = items.find(|item| item["metadata"]["name"] == name && item["kind"] == collection);
                let mut found = found.unwrap().clone();
                found["status"] = json!({"observedGeneration": 1});
                found["spec"]["added"] = json!("by the server");
                match change {
                    "absent" => return refuse(out, "404 Not Found"),
                    "forbidden" => return refuse(out, "403 Forbidden"),
                    "garbage" => return answer(out, "200 OK", "{\"spec\": ["),
                    "endless" => {
                        chunked(out)?;
                        loop {
                            chunk(out, &[b' '; 4096])?;
                        }
                    }
                    "spec" if collection == "ValidatingAdmissionPolicy" => {
                        found["spec"]["validations"][0]["expression"] = json!("true");
                    }
                    _ => {}
                }
                return answer(out, "200 OK", &found.to_string());
            }
            if path.starts_with("/apis/apps.vworkspace.io/") || path.starts_with("/apis/ops.vworkspace.io/") {
                let names = ["applicationinstances", "operations", "clusters"].map(|name| json!({"name": name}));
                return answer(out, "200 OK", &json!({"resources": names}).to_string());
            }
            if path.contains("/pods/") {
                let pod = json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}});
                return answer(out, "200 OK", &pod.to_string());
            }
            if path.contains("/configmaps/") {
                let data = json!({"pod": "other", "namespace": "vworkspace-system", "uid": "u"});
                let record = json!({"metadata": {"resourceVersion": "7"}, "data": data});
                return answer(out, "200 OK", &record.to_string());
            }
            refuse(out, "403 Forbidden")
        });
        fs::write(setup.state_dir().join("holder"), "0123456789abcdef0123456789abcdef").unwrap();
        let kubeconfig = server.kubeconfig("{token: abcdefghijklmnopqrstuv}");
        let seen = doctor(&setup.clone().flag("--kubeconfig", kubeconfig));
        seen.tells("admission", verdict, &[words]).tells("k3s", "ok", &["k3s v1.33.1+k3s1"]);
        seen.tells("rights", "ok", &["all 18"]).tells("definitions", "ok", &["served as v1alpha1"]);
        seen.tells("one-agent", "failed", &["the agent in pod vworkspace-system/other acts on this cluster"]);
        seen.nothing_beside(&["admission", "one-agent", "agent"]);
        assert!(
            server.asked().iter().all(|asked| asked.method == "GET" || asked.path.ends_with("reviews")),
            "it only asks"
        );
    }
}
