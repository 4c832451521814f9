//! The files of k3s/: what a real API server makes of them, and that kustomize and Helm make the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use http::Method;
use pullet::limits;
use pullet::target::kubernetes::list_as_json;
use serde_json::{Value, json};

use crate::apiserver::wait_until;
use crate::cluster_stage::{CLUSTERS, Definitions, Stage};

const SYSTEM: &str = "vworkspace-system";

/// What a version brings; admission.yaml is for servers of its own, and `admission` applies it there.
const FILES: [&str; 4] = ["crds", "rbac", "cluster", "agent"];

/// What is its owner's.
const OWN: [&str; 2] = ["settings", "this-cluster"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents(file: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(format!("k3s/{file}.yaml"))).unwrap();
    text.trim_start_matches("---\n").split("\n---\n").map(str::to_owned).collect()
}

fn member<'a>(document: &'a str, name: &str) -> &'a str {
    document.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_agent_s_manifests_are_taken_as_they_stand_and_hold_the_promised_numbers() {
    let stage = Stage::new(Definitions::Ours);
    let server = &stage.node.0;
    for file in ["settings", "agent", "this-cluster"] {
        server.apply_manifest(&format!("k3s/{file}.yaml"));
    }
    let deployment = server.get(&format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/pullet"));
    let spec = &deployment["spec"];
    assert_eq!((&spec["replicas"], &spec["strategy"]["type"]), (&json!(1), &json!("Recreate")));
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "pullet");
    assert_eq!(pod["automountServiceAccountToken"], true);
    assert_eq!(pod["nodeSelector"], json!({"node-role.kubernetes.io/control-plane": "true"}));
    assert_eq!(
        pod["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod[host].is_null(), "{host}");
    }
    let [container] = pod["containers"].as_array().unwrap().as_slice() else { panic!("{pod}") };
    assert_eq!(
        container["resources"],
        json!({"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "16Mi"}})
    );
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true})
    );
    assert_eq!(container["image"], concat!("localhost/pullet:", env!("CARGO_PKG_VERSION")));
    assert!(container["livenessProbe"].is_null());
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > limits::STOP_TIMEOUT.as_secs());
    // The only path of the host: what the credential is bound to.
    let hosts: Vec<&Value> =
        pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["hostPath"]["path"]).collect();
    assert_eq!(hosts.iter().filter(|path| !path.is_null()).collect::<Vec<_>>(), [&&json!("/etc/machine-id")]);

    let policy = server.get(&format!("/apis/networking.k8s.io/v1/namespaces/{SYSTEM}/networkpolicies/pullet"));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert!(policy["spec"]["ingress"].is_null(), "nobody may talk to it");
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
    let cluster = server.get(&format!("{CLUSTERS}/this-cluster"));
    assert_eq!(cluster["spec"]["connectivityMode"], "pull");
    for secret in ["vworkspace-agent-credentials", "vworkspace-registration-token"] {
        assert!(server.get(&format!("/api/v1/namespaces/{SYSTEM}/secrets/{secret}"))["data"].is_null(), "{secret}");
    }

    // A member that does not exist is noticed: what passed above was looked at.
    let strange = documents("agent").iter().find(|text| member(text, "kind: ") == "Deployment").unwrap().clone();
    let strange = strange.replace("      enableServiceLinks: false", "      enableServiceLink: false");
    let path = format!(
        "/apis/apps/v1/namespaces/{SYSTEM}/deployments/pullet?fieldManager=x&force=true&fieldValidation=Strict"
    );
    let (status, answer) = server.request_as(Method::PATCH, &path, "application/apply-patch+yaml", strange.into());
    assert!(status >= 400 && answer["message"].as_str().unwrap().contains("enableServiceLink"), "{status} {answer}");
    for (path, name) in [("deployments", "pullet"), ("persistentvolumeclaims", "pullet-state")] {
        let base = if path == "deployments" { "/apis/apps/v1" } else { "/api/v1" };
        server.request(Method::DELETE, &format!("{base}/namespaces/{SYSTEM}/{path}/{name}"), None);
    }
    wait_until("they are gone", || {
        server.request(Method::GET, &format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/pullet"), None).0 == 404
    });
}

/// The settings of the ConfigMap are some that the agent takes.
#[test]
fn the_settings_in_the_config_map_are_taken_and_so_are_those_that_are_commented_out() {
    let [config] = documents("settings").try_into().unwrap();
    assert_eq!(member(&config, "  name: "), "pullet-config");
    let (_, toml) = config.split_once("  pullet.toml: |\n").unwrap();
    let lines: Vec<&str> = toml.lines().map(|line| line.strip_prefix("    ").unwrap()).collect();
    let toml = lines.join("\n");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pullet.toml");
    let opened = toml.replace("\n#a", "\na");
    assert_eq!(opened.matches("\nallow_").count(), 2);
    for text in [&toml, &opened] {
        fs::write(&file, text).unwrap();
        let output = crate::agent::Agent::run_to_end(["rbac", "--config", file.to_str().unwrap()]);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && printed.contains("name: pullet-cluster"), "{printed}");
    }
}

fn tool(name: &str) -> Command {
    let directory = std::env::var_os("PULLET_TOOLS").expect("PULLET_TOOLS names a directory with helm and kubectl");
    Command::new(PathBuf::from(directory).join(name))
}

fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Objects by kind and name, each scalar as its text.
fn objects(documents: impl Iterator<Item = String>) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    for document in documents.filter(|text| text.lines().any(|line| line.starts_with("kind: "))) {
        let list: Value = serde_json::from_str(&list_as_json(&document).unwrap()).unwrap();
        let object = list["items"][0].clone();
        let (kind, metadata) = (&object["kind"], &object["metadata"]);
        let name = format!("{kind} {} {}", metadata["namespace"], metadata["name"]);
        assert!(objects.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    objects
}

fn of_files(files: &[&str]) -> BTreeMap<String, Value> {
    objects(files.iter().flat_map(|file| documents(file)))
}

fn of_output(text: &str) -> BTreeMap<String, Value> {
    objects(text.split("\n---\n").map(|document| document.trim_start_matches("---\n").to_owned()))
}

#[test]
#[ignore = "needs kubectl and helm: PULLET_TOOLS names their directory (tests/run does)"]
fn the_kustomization_holds_what_a_version_brings_and_nothing_that_is_its_owner_s() {
    let made = of_output(&output(tool("kubectl").args(["kustomize", "k3s"])));
    let files = of_files(&[FILES.as_slice(), &["admission"]].concat());
    assert!(files.len() > 20);
    assert_eq!(made, files);
    let own = of_files(&OWN);
    assert_eq!(own.len(), 2);
    assert!(own.keys().all(|name| !made.contains_key(name)), "{own:?}");
}

fn chart(values: &[&str]) -> BTreeMap<String, Value> {
    let mut helm = tool("helm");
    helm.args(["template", "pullet", "k3s/chart", "--namespace", SYSTEM, "--include-crds"]);
    of_output(&output(helm.args(values)))
}

#[test]
#[ignore = "needs kubectl and helm: PULLET_TOOLS names their directory (tests/run does)"]
fn the_chart_makes_what_the_files_hold_but_for_the_namespace_which_helm_makes() {
    let endpoint = ["--set", "endpoint=https://control.example.org"];
    let mut files = of_files(&[FILES.as_slice(), &OWN].concat());
    assert!(files.remove(&format!("\"Namespace\" null \"{SYSTEM}\"")).is_some());
    assert_eq!(chart(&endpoint), files);
    // A server that has admission policies gets them.
    files.extend(of_files(&["admission"]));
    let new = ["--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"];
    assert_eq!(chart(&[endpoint, new].concat()), files);
}

#[test]
#[ignore = "needs kubectl and helm: PULLET_TOOLS names their directory (tests/run does)"]
fn each_value_of_the_chart_has_its_effect_and_the_endpoint_is_required() {
    let made = chart(&[
        "--set",
        "endpoint=https://a.example,clusterId=c7,tokenSecret=mine,image=registry.example/pullet:1,imagePullPolicy=Always,\
         nodeName=pi-4,storageClass=fast,config=wait = 5",
    ]);
    let of =
        |kind: &str, name: &str| made.get(&format!("\"{kind}\" \"{SYSTEM}\" \"{name}\"")).cloned().unwrap_or_default();
    let cluster = &made["\"Cluster\" null \"this-cluster\""]["spec"];
    assert_eq!((&cluster["controlPlaneEndpoint"], &cluster["clusterId"]), (&json!("https://a.example"), &json!("c7")));
    assert_eq!(cluster["registrationTokenSecretRef"]["name"], "mine");
    // Whoever names another Secret has made it.
    assert!(of("Secret", "mine").is_null() && of("Secret", "vworkspace-registration-token").is_null());
    assert_eq!(of("Role", "pullet-credentials")["rules"][1]["resourceNames"], json!(["mine"]));
    let pod = &of("Deployment", "pullet")["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/hostname": "pi-4"}));
    assert_eq!(pod["containers"][0]["image"], "registry.example/pullet:1");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(of("PersistentVolumeClaim", "pullet-state")["spec"]["storageClassName"], "fast");
    assert_eq!(of("ConfigMap", "pullet-config")["data"]["pullet.toml"], "wait = 5\n");

    for (arguments, words) in [
        (&["--namespace", SYSTEM][..], "endpoint is missing"),
        (&["--namespace", "default", "--set", "endpoint=https://a.example"], "the agent lives in its own namespace"),
    ] {
        let refused =
            tool("helm").args(["template", "pullet", "k3s/chart"]).args(arguments).current_dir(root()).output();
        let refused = refused.unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains(words), "{text}");
    }
    let lint = output(tool("helm").args(["lint", "--strict", "k3s/chart", "--set", "endpoint=https://a.example"]));
    assert!(lint.contains("0 chart(s) failed"), "{lint}");
}

#[test]
#[ignore = "needs kubectl and helm: PULLET_TOOLS names their directory (tests/run does)"]
fn a_number_is_a_name_and_what_could_not_work_is_refused_by_the_chart() {
    let endpoint = "endpoint=https://a.example";
    // What looks like a number is one to helm, whether on its command line or in a file.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("values.yaml");
    fs::write(&file, "endpoint: https://a.example\nnodeName: 12345678901\nclusterId: 9007199254740991\n").unwrap();
    for (values, node, cluster) in [
        (["--set", "endpoint=https://a.example,nodeName=1234,clusterId=7"], "1234", "7"),
        (["--values", file.to_str().unwrap()], "12345678901", "9007199254740991"),
    ] {
        let made = chart(&values);
        let pod = &made[&format!("\"Deployment\" \"{SYSTEM}\" \"pullet\"")]["spec"]["template"]["spec"];
        assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/hostname": node}));
        assert_eq!(made["\"Cluster\" null \"this-cluster\""]["spec"]["clusterId"], cluster);
    }
    for (value, words) in [
        ("endpoint=http://a.example", "at '/endpoint'"),
        ("endpoint=ftp://a.example", "at '/endpoint'"),
        ("endpoint=https://", "at '/endpoint'"),
        ("endpont=https://a.example", "additional properties 'endpont' not allowed"),
        ("clusterId=true", "at '/clusterId'"),
        ("clusterId=9007199254740992", "at '/clusterId'"),
        ("config=5", "at '/config'"),
        ("image=", "at '/image'"),
        ("image=a b", "at '/image'"),
        ("imagePullPolicy=always", "at '/imagePullPolicy'"),
        ("nodeName=Pi_4", "at '/nodeName'"),
        ("storageClass=", "at '/storageClass'"),
        ("tokenSecret=", "at '/tokenSecret'"),
        ("tokenSecret=null", "tokenSecret"),
    ] {
        let mut helm = tool("helm");
        helm.args(["template", "pullet", "k3s/chart", "--namespace", SYSTEM, "--set", endpoint, "--set", value]);
        let refused = helm.current_dir(root()).output().unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains("values don't meet the specifications"), "{value}: {text}");
        assert!(text.contains(words), "{value}: {text}");
    }
}

/// Each value has a line in the schema, and the other way round: one that is forgotten there would be refused.
#[test]
fn the_schema_of_the_chart_knows_just_its_values() {
    let read = |file: &str| fs::read_to_string(root().join("k3s/chart").join(file)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let known: Vec<&String> = schema["properties"].as_object().unwrap().keys().filter(|key| *key != "global").collect();
    let values = read("values.yaml");
    let keys = values.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_alphabetic()));
    let mut keys: Vec<&str> = keys.map(|line| line.split_once(':').unwrap().0).collect();
    keys.sort_unstable();
    assert_eq!(known, keys);
}

#[test]
fn everything_that_names_a_version_names_this_one() {
    for (file, words) in [
        ("agent.yaml", concat!("image: localhost/pullet:", env!("CARGO_PKG_VERSION"), "\n")),
        ("chart/values.yaml", concat!("image: localhost/pullet:", env!("CARGO_PKG_VERSION"), "\n")),
        ("chart/templates/manifests.yaml", concat!("\"image: localhost/pullet:", env!("CARGO_PKG_VERSION"), "\"")),
        ("chart/Chart.yaml", concat!("\nversion: ", env!("CARGO_PKG_VERSION"), "\n")),
        ("chart/Chart.yaml", concat!("\nappVersion: ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let text = fs::read_to_string(root().join("k3s").join(file)).unwrap();
        assert!(text.contains(words), "{file} does not say {words:?}");
    }
}
