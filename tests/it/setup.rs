//! `pullet setup` and `pullet uninstall`: the real program against a real API server and a control plane over real TLS.

mod kept;
mod machine;
mod owner;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use http::Method;
use serde_json::json;

use self::machine::{Empty, Machine, SYSTEM};
use crate::agent::run_to_end;
use crate::apiserver::{unique, wait_until};
use crate::scene::{SOON, said, says};
use crate::testbed::job::application_instance;
use crate::testbed::{Call, Testbed};

const CLUSTERS: &str = "/apis/ops.vworkspace.io/v1alpha1/clusters";

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[test]
#[ignore = "needs root, for a user of its own, and a Kubernetes API server (tests/run finds one)"]
fn a_k3s_server_gets_an_agent_that_polls_and_a_second_run_changes_nothing() {
    let (server, testbed) = (Empty::new(), Testbed::start());
    let machine = Machine::k3s(&server.0);
    let name = format!("clinic-{}", unique());
    let flags = machine.flags(&testbed, &name);
    let setup: Vec<&str> = ["setup"].into_iter().chain(words(&flags)).collect();

    // What would be done, and none of it.
    let before = machine.listing();
    let output = machine.run(&[&setup[..], &["--dry-run"]].concat());
    says(
        &output,
        0,
        &[
            "this node is a k3s server",
            "would write /etc/pullet/pullet.toml (0640 root:pullet)",
            "would make /etc/pullet/credentials (0700 root:root)",
            "would write /etc/pullet/credentials/pullet.token (0600 root:root)",
            "would apply CustomResourceDefinition clusters.ops.vworkspace.io",
            "would apply ServiceAccount vworkspace-system/pullet",
            "would write a token of the account pullet into /etc/pullet/credentials/pullet.kubeconfig (0600 root:root)",
            "would write /etc/systemd/system/pullet.service (0644 root:root)",
            &format!("would register at {}", testbed.endpoint()),
            "would run systemctl restart pullet",
        ],
    );
    assert_eq!(machine.listing(), before);
    assert!(!server.is_there(SYSTEM) && server.definitions() == 0);
    assert_eq!(testbed.requests().len(), 0);

    let output = machine.run(&setup);
    says(&output, 0, &["registered as", "running systemctl restart pullet", "it works: the agent polls", &name]);
    for (path, mode) in [
        ("etc/pullet", "0750 root:pullet"),
        ("etc/pullet/pullet.toml", "0640 root:pullet"),
        ("etc/pullet/credentials", "0700 root:root"),
        ("etc/pullet/credentials/pullet.kubeconfig", "0600 root:root"),
        ("etc/pullet/credentials/pullet.ca", "0600 root:root"),
        ("etc/systemd/system/pullet.service", "0644 root:root"),
        ("var/lib/pullet", "0700 pullet:pullet"),
        ("var/lib/pullet/credential.json", "0600 pullet:pullet"),
    ] {
        assert_eq!(machine.mode(path), mode, "{path}");
    }
    assert!(!machine.path("etc/pullet/credentials/pullet.token").exists(), "it is used up");
    let toml = machine.read("etc/pullet/pullet.toml");
    assert!(
        toml.contains(&format!("\nendpoint = \"{}\"\n", testbed.endpoint())) && toml.ends_with("\nwait = 1\n"),
        "{toml}"
    );
    // The account's rights, and not those of the kubeconfig that setup used.
    assert!(!machine.read("etc/pullet/credentials/pullet.kubeconfig").contains("client-certificate"));
    let job = testbed.apply(&name, application_instance("shop", "wiki"));
    assert_eq!(testbed.result_of(&job, SOON)["outcome"], "succeeded", "{}", machine.agent_log());
    assert!(server.is_there("/apis/apps.vworkspace.io/v1alpha1/namespaces/shop/applicationinstances/wiki"));

    // Again, with another setting: the file keeps what somebody wrote into it.
    let written = toml.replace("wait = 1", "# Short, for a test.\nwait = 1");
    fs::write(machine.path("etc/pullet/pullet.toml"), &written).unwrap();
    let kubeconfig = machine.read("etc/pullet/credentials/pullet.kubeconfig");
    let output = machine.run(&["setup", "--allow-chart", "https://charts.example.org"]);
    says(
        &output,
        0,
        &["registered already", "pullet.kubeconfig works", "pullet.service is as it should be", "it works"],
    );
    let toml = machine.read("etc/pullet/pullet.toml");
    assert_eq!(toml, format!("{written}allow_chart = [\"https://charts.example.org\"]\n"));
    assert_eq!(machine.read("etc/pullet/credentials/pullet.kubeconfig"), kubeconfig);
    assert_eq!(testbed.requests_of(Call::Register).len(), 1);
    assert_eq!(machine.read("systemctl.log").matches("restart pullet").count(), 2);

    let pod: Vec<&str> = setup.iter().copied().chain(["--in-cluster"]).collect();
    says(&machine.run(&pod), 2, &["the agent of this node is a unit"]);

    goes_away(&server, &machine, &testbed);
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

/// What an agent that runs writes meanwhile: its log, and its status.
fn is_of_the_agent(line: &str) -> bool {
    line.contains("log ") || line.contains("run/pullet/")
}

fn goes_away(server: &Empty, machine: &Machine, testbed: &Testbed) {
    // First what would go.
    let before = machine.listing();
    says(
        &machine.run(&["uninstall", "--dry-run"]),
        0,
        &[
            "would remove /var/lib/pullet",
            "would remove ServiceAccount vworkspace-system/pullet",
            "would remove ClusterRole pullet\n",
        ],
    );
    let after = machine.listing();
    assert!(
        before.iter().filter(|line| !is_of_the_agent(line)).all(|line| after.contains(line)) && server.is_there(SYSTEM)
    );
    let output = machine.run(&["uninstall"]);
    says(
        &output,
        0,
        &["running systemctl disable --now pullet", "removed /etc/pullet", "left as they are", "does not know"],
    );
    for gone in ["etc/pullet", "var/lib/pullet", "etc/systemd/system/pullet.service", "etc/sysusers.d/pullet.conf"] {
        assert!(!machine.path(gone).exists(), "{gone}");
    }
    assert!(
        !server.is_there(&format!("{ROLES}/pullet")) && !server.is_there(&format!("{SYSTEM}/serviceaccounts/pullet"))
    );
    assert_eq!(server.0.get(SYSTEM)["status"]["phase"], "Terminating");
    assert_eq!(server.definitions(), 3);
    assert!(server.is_there("/apis/apps.vworkspace.io/v1alpha1/namespaces/shop/applicationinstances/wiki"));
    let polls = testbed.counts().polls;
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(testbed.counts().polls <= polls + 1, "nobody polls any more");
    // Where nothing is there is nothing to say.
    let output = machine.run(&["uninstall"]);
    assert!(output.status.success() && !said(&output).1.contains("removed /"), "{}", said(&output).1);
}

#[test]
#[ignore = "needs root, for a user of its own, and a Kubernetes API server (tests/run finds one)"]
fn what_fails_in_the_middle_is_told_and_the_next_run_goes_on_from_there() {
    let (server, testbed) = (Empty::new(), Testbed::start());
    let machine = Machine::k3s(&server.0);
    let name = format!("clinic-{}", unique());
    let flags = machine.flags(&testbed, &name);
    let setup: Vec<&str> = ["setup"].into_iter().chain(words(&flags)).collect();
    let token = fs::read_to_string(machine.path("token")).unwrap();
    fs::write(machine.path("token"), "not-a-token-0123456789abcdef").unwrap();
    let output = machine.run(&setup);
    says(&output, 1, &["does not accept the one-time token", "stopped: what is said above is done and stays"]);
    assert!(server.is_there(&format!("{SYSTEM}/serviceaccounts/pullet")) && !machine.path("systemctl.log").exists());
    // A right one goes on; a program that fails is named with what it said.
    fs::write(machine.path("token"), token).unwrap();
    let systemctl = fs::read_to_string(machine.path("bin/systemctl")).unwrap();
    let failing = "#!/bin/sh\necho 'first' >&2\necho 'Failed to connect to bus' >&2\nexit 1\n";
    fs::write(machine.path("bin/systemctl"), failing).unwrap();
    let output = machine.run(&setup);
    says(
        &output,
        1,
        &["registered as", "Failed to connect to bus", "systemctl daemon-reload failed", "goes on from there"],
    );
    fs::write(machine.path("bin/systemctl"), systemctl).unwrap();
    // The token is used up, and not needed.
    let rest: Vec<&str> = setup.iter().copied().filter(|word| !word.contains("token")).collect();
    says(&machine.run(&rest), 0, &["registered already", "it works"]);
    assert_eq!(testbed.requests_of(Call::Register).len(), 2);
    // Where k3s does not answer, nothing of the machine is taken away before that is known.
    let broken =
        machine.read("etc/rancher/k3s/k3s.yaml").replace("server: https://127.0.0.1:", "server: https://127.0.0.1:1#");
    fs::write(machine.path("etc/rancher/k3s/k3s.yaml"), broken.replace('#', " #")).unwrap();
    let before = machine.listing();
    for line in [&["uninstall"][..], &["uninstall", "--dry-run"]] {
        let output = machine.run(line);
        says(&output, 1, &["nothing was removed", "--leave-cluster", "no connection"]);
        assert!(!said(&output).1.contains("stopped"), "{}", said(&output).1);
    }
    fs::write(machine.path("etc/rancher/k3s/k3s.yaml"), "server: [").unwrap();
    says(&machine.run(&["uninstall"]), 1, &["nothing was removed", "--leave-cluster", "k3s.yaml"]);
    let after = machine.listing();
    assert!(
        before
            .iter()
            .filter(|line| !line.contains("k3s.yaml") && !is_of_the_agent(line))
            .all(|line| after.contains(line))
    );
    says(&machine.run(&["uninstall", "--leave-cluster", "--purge-resources"]), 2, &["needs the cluster"]);
    says(&machine.run(&["uninstall", "--leave-cluster", "--dry-run"]), 0, &["would remove /var/lib/pullet"]);
    assert!(machine.path("var/lib/pullet/credential.json").exists());
    says(&machine.run(&["uninstall", "--leave-cluster"]), 0, &["no cluster was asked", "removed /var/lib/pullet"]);
    assert!(!machine.path("var/lib/pullet").exists() && !machine.path("etc/pullet").exists());
    assert!(server.is_there(&format!("{SYSTEM}/serviceaccounts/pullet")), "what is in the cluster stays there");
}

#[test]
#[ignore = "needs root, for a user of its own, and a Kubernetes API server (tests/run finds one)"]
fn in_the_cluster_k3s_applies_the_manifests_and_a_pod_with_its_own_account_polls() {
    let (server, testbed) = (Empty::new(), Testbed::start());
    let machine = Machine::k3s(&server.0);
    server.0.request(
        Method::POST,
        "/api/v1/nodes",
        Some(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "clinic-7"}})),
    );
    let name = format!("clinic-{}", unique());
    let mut flags = machine.flags(&testbed, &name);
    flags.extend(["--cluster-id", &name, "--allow-chart", "*", "--allow-kind", "/ConfigMap"].map(str::to_owned));
    let token = fs::read_to_string(machine.path("token")).unwrap();
    let arguments: Vec<&str> = ["setup", "--in-cluster"].into_iter().chain(words(&flags)).collect();
    let log = tempfile::NamedTempFile::new().unwrap();
    let [stdout, stderr] = [(); 2].map(|()| File::options().append(true).open(log.path()).unwrap());
    let mut setup = machine.command(&arguments).stdout(stdout).stderr(stderr).spawn().unwrap();
    let manifests = machine.path("var/lib/rancher/k3s/server/manifests");
    wait_until("it waits for k3s", || fs::read_to_string(log.path()).unwrap().contains("waiting: "));

    // What k3s does with them: each file by itself, in the order of the names, again until all is taken.
    let mut files: Vec<_> = fs::read_dir(&manifests).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    // The API server of the tests is older than admission policies.
    let expected = [
        "pullet-1-crds.yaml",
        "pullet-2-rbac.yaml",
        "pullet-3-cluster.yaml",
        "pullet-5-agent.yaml",
        "pullet-6-this-cluster.yaml",
    ];
    assert_eq!(names.iter().filter(|name| !name.contains("admission")).collect::<Vec<_>>(), expected);
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        assert!(!text.contains(token.trim()), "the token lies in {}", file.display());
        wait_until("k3s has applied it", || server.apply(&text));
    }
    let deployment = server.0.get("/apis/apps/v1/namespaces/vworkspace-system/deployments/pullet");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/hostname": "clinic-7"}));

    let mut agent = start_pod(&server, &machine);
    let ended = wait_for_end(&mut setup);
    let (text, status) = (fs::read_to_string(log.path()).unwrap(), setup.wait().unwrap());
    assert!(ended && status.success(), "{text}\n{}", machine.agent_log());
    for words in
        ["put the one-time token into Secret", "it works: the agent polls", "k3s has not applied the manifests yet"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let job = testbed.apply(&name, application_instance("shop", "wiki"));
    assert_eq!(testbed.result_of(&job, SOON)["outcome"], "succeeded", "{}", machine.agent_log());
    let cluster = server.0.get(&format!("{CLUSTERS}/this-cluster"));
    assert_eq!(cluster["metadata"]["finalizers"], json!(["ops.vworkspace.io/cluster-cleanup"]));

    goes_on(&server, &machine, &files);

    let unit: Vec<&str> = ["setup"].into_iter().chain(words(&flags)).collect();
    says(&machine.run(&unit), 2, &["the agent of this node is a pod"]);

    // The pod goes with its Deployment.
    agent.kill().unwrap();
    agent.wait().unwrap();
    let output = machine.run(&["uninstall"]);
    says(
        &output,
        0,
        &["removed Deployment vworkspace-system/pullet", "took the finalizer off", "removed PersistentVolumeClaim"],
    );
    assert_eq!(fs::read_dir(&manifests).unwrap().count(), 0);
    let cluster = server.0.get(&format!("{CLUSTERS}/this-cluster"));
    assert!(cluster["metadata"]["finalizers"].is_null() && cluster["metadata"]["deletionTimestamp"].is_null());
    for gone in
        ["secrets/vworkspace-agent-credentials", "secrets/vworkspace-registration-token", "configmaps/pullet-config"]
    {
        assert!(!server.is_there(&format!("{SYSTEM}/{gone}")), "{gone}");
    }
}

/// Again, without a word of what is known: the settings, the Cluster and what somebody wrote there stay.
fn goes_on(server: &Empty, machine: &Machine, files: &[PathBuf]) {
    let manifests = machine.path("var/lib/rancher/k3s/server/manifests");
    let file = manifests.join("pullet-5-agent.yaml");
    let edited = fs::read_to_string(&file).unwrap().replace("    wait = 1\n", "    # Short.\n    wait = 1\n");
    fs::write(&file, &edited).unwrap();
    let again = ["setup", "--in-cluster"];
    let texts = || files.iter().map(|file| fs::read_to_string(file).unwrap()).collect::<Vec<_>>();
    let before = texts();
    for dry in [&["--dry-run"][..], &[]] {
        let output = machine.run(&[&again[..], dry].concat());
        says(&output, 0, &["pullet-5-agent.yaml is as it should be", "pullet-6-this-cluster.yaml is as it should be"]);
        assert!(!said(&output).1.contains("wr"), "{}", said(&output).1);
    }
    assert_eq!(texts(), before);
    assert_eq!(fs::read_to_string(&file).unwrap(), edited);
    // Without the file the Cluster says it.
    let cluster = manifests.join("pullet-6-this-cluster.yaml");
    fs::remove_file(&cluster).unwrap();
    says(
        &machine.run(&again),
        0,
        &["wrote /var/lib/rancher/k3s/server/manifests/pullet-6-this-cluster.yaml", "it works"],
    );
    assert_eq!(texts(), before);
    // What is given is changed, and nothing else.
    let written = fs::read_to_string(&cluster).unwrap().replace("pull\n", "pull\n  # Ours.\n  policy: {}\n");
    fs::write(&cluster, &written).unwrap();
    says(&machine.run(&[&again[..], &["--cluster-id", "clinic-8", "--wait", "2"]].concat()), 0, &["it works"]);
    let changed = fs::read_to_string(&cluster).unwrap();
    let others =
        |text: &str| text.lines().filter(|line| !line.contains("clusterId")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(others(&changed), others(&written));
    assert!(
        changed.contains("\n  clusterId: \"clinic-8\"\n") && changed.matches("clusterId").count() == 1,
        "{changed}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), edited.replace("wait = 1", "wait = 2"));
    // Of another name than what setup would write: it is left alone, and that is said.
    let other = json!({"apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster", "metadata": {"name": "another"}, "spec": {}});
    server.0.create(CLUSTERS, &other);
    let dry = [&again[..], &["--dry-run"]].concat();
    says(
        &machine.run(&[&dry[..], &["--cluster-id", "clinic-9"]].concat()),
        0,
        &["a Cluster of another name", "kubectl edit"],
    );
    assert!(!said(&machine.run(&dry)).1.contains("another name"));
    assert_eq!(server.0.request(Method::DELETE, &format!("{CLUSTERS}/another"), None).0, 200);
    // Nor is one written over of which only a part was read.
    let long = [&written, &*"#".repeat(192 * 1024 - written.len())].concat();
    fs::write(&cluster, &long).unwrap();
    says(&machine.run(&again), 0, &["pullet-6-this-cluster.yaml is as it should be"]);
    fs::write(&cluster, [&long, "#"].concat()).unwrap();
    says(&machine.run(&again), 1, &["pullet-6-this-cluster.yaml", "too large"]);
    assert_eq!(fs::read_to_string(&cluster).unwrap().len(), 192 * 1024 + 1);
}

/// What the kubelet does with the Deployment: the account's token and CA, and the settings, in a world of its own.
fn start_pod(server: &Empty, machine: &Machine) -> std::process::Child {
    let settings = server.0.get(&format!("{SYSTEM}/configmaps/pullet-config"))["data"]["pullet.toml"].clone();
    fs::create_dir(machine.path("pod")).unwrap();
    for (file, text) in [
        ("token", server.account_token()),
        ("ca.crt", server.0.authority_pem()),
        ("namespace", "vworkspace-system".to_owned()),
        ("pullet.toml", settings.as_str().unwrap().to_owned()),
    ] {
        fs::write(machine.path("pod").join(file), text).unwrap();
    }
    let mut kubelet = Command::new("unshare");
    kubelet.args(["--mount", "--propagation", "private", "setpriv", "--pdeathsig", "KILL", "sh", "-ec", r"
        mount -t tmpfs tmpfs /run
        mkdir -p /run/secrets/kubernetes.io/serviceaccount /run/state /run/pullet
        chmod 777 /run/state /run/pullet
        cp pod/token pod/ca.crt pod/namespace /run/secrets/kubernetes.io/serviceaccount
        exec setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --bounding-set=-all \
            usr/bin/pullet run --config pod/pullet.toml --state-dir /run/state/pullet --status-file /run/pullet/status.json
    "]);
    kubelet.current_dir(machine.root()).env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    kubelet.env("KUBERNETES_SERVICE_PORT", server.0.port().to_string());
    kubelet
        .env("POD_NAMESPACE", "vworkspace-system")
        .env("POD_NAME", "pullet-0")
        .env("POD_UID", "u")
        .env_remove("KUBECONFIG");
    let log = File::create(machine.path("agent.log")).unwrap();
    kubelet.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn wait_for_end(child: &mut std::process::Child) -> bool {
    let begin = std::time::Instant::now();
    while begin.elapsed() < SOON * 2 {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().unwrap();
    false
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn resources_go_only_when_that_is_asked_for_and_confirmed() {
    let server = Empty::new();
    let machine = Machine::k3s(&server.0);
    server.0.create_definitions();
    server.0.define("elsewhere.example", "v1", "Thing", "Cluster");
    wait_until("they are served", || server.is_there(CLUSTERS));
    let space = format!("shop-{}", unique());
    server.0.create_namespace(&space, &json!({"managed-by": "vworkspace"}));
    let instances = format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{space}/applicationinstances");
    wait_until("it is made", || {
        server.0.request(Method::POST, &instances, Some(&application_instance(&space, "wiki"))).0 == 201
    });
    let maps = format!("/api/v1/namespaces/{space}/configmaps");
    for (name, labels) in [("ours", json!({"app.vworkspace.io/managed-by": "control-plane"})), ("theirs", json!({}))] {
        server.0.create(
            &maps,
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}}),
        );
    }
    let purge =
        ["uninstall", "--purge-resources", "--allow-kind", "/ConfigMap", "--allow-kind", "nowhere.example/Thing"];
    let names = [format!("{instances}/wiki"), format!("{maps}/ours")];
    let output = machine.run(&purge);
    says(&output, 2, &[&names[0], &names[1], "nobody can be asked here, so add --yes"]);
    assert!(!said(&output).1.contains("theirs"));
    says(&machine.run(&[&purge[..], &["--dry-run"]].concat()), 0, &["would remove", &names[0]]);
    assert!(names.iter().all(|name| server.is_there(name)));
    says(
        &machine.run(&[&purge[..], &["--yes"]].concat()),
        0,
        &[&format!("removed {}", names[0]), &format!("removed {}", names[1])],
    );
    assert!(!server.is_there(&names[1]) && server.is_there(&format!("{maps}/theirs")));
    wait_until("our definitions are gone", || server.definitions() == 1);
    assert!(server.is_there("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.elsewhere.example"));
}

#[test]
fn a_card_is_set_up_for_its_first_start_without_a_cluster_or_a_line() {
    let machine = Machine::bare();
    machine.has_user_of_ours();
    crate::agent::write_secret(&machine.path("token"), "abcdefghijklmnopqrstuv");
    let token = machine.path("token").display().to_string();
    let flags = [
        "--endpoint",
        "https://control.example.org",
        "--token-file",
        &token,
        "--target",
        "directory",
        "--directory",
        "/srv/applied",
    ];
    let output = machine.run(&[&["setup", "--no-start"], &flags[..]].concat());
    says(
        &output,
        0,
        &["this node has no k3s", "wrote /etc/pullet/credentials/pullet.token (0600 root:root)", "nothing was started"],
    );
    assert_eq!(machine.read("etc/pullet/credentials/pullet.token"), "abcdefghijklmnopqrstuv");
    let toml = machine.read("etc/pullet/pullet.toml");
    assert!(toml.contains("endpoint = \"https://control.example.org\"") && !toml.contains("token"), "{toml}");
    assert!(machine.read("etc/systemd/system/pullet.service").contains("\nExecStart=/usr/bin/pullet run --config"));
    assert!(!machine.path("systemctl.log").exists() && !machine.path("var/lib/pullet").exists());
    says(&machine.run(&["uninstall"]), 0, &["removed /etc/pullet", "no cluster was asked"]);
    assert!(!machine.path("etc/pullet").exists() && machine.path("usr/bin/pullet").exists());
}

#[test]
fn what_does_not_go_here_is_refused_before_anything_is_changed() {
    let machine = Machine::bare();
    let agent = Machine::bare();
    fs::create_dir_all(agent.path("var/lib/rancher/k3s/agent")).unwrap();
    let server = Machine::bare();
    fs::create_dir_all(server.path("var/lib/rancher/k3s/server/manifests")).unwrap();
    fs::create_dir_all(server.path("run/systemd/system")).unwrap();
    let token = machine.path("token");
    crate::agent::write_secret(&token, "abcdefghijklmnopqrstuv");
    let token = token.to_str().unwrap();
    let endpoint = "https://control.example.org";
    for (machine, line, words) in [
        (&machine, "setup".to_owned(), "say where the control plane is: --endpoint"),
        (&machine, "setup --endpoint control.example.org".to_owned(), "not a URL such as https://control.example"),
        (&machine, format!("setup --endpoint {endpoint}"), "give the one-time token by --token-file FILE"),
        (&machine, format!("setup --endpoint {endpoint} --token-file {token}"), "no systemd runs here"),
        (&machine, format!("setup --endpoint {endpoint} --token-file {token} --dry-run"), "no systemd runs here"),
        (&machine, format!("setup --endpoint {endpoint} --in-cluster"), "run it on the k3s server"),
        (
            &machine,
            format!("setup --endpoint {endpoint} --state-dir /x"),
            "leave --config, --state-dir and --status-file out",
        ),
        (&machine, "setup --purge-resources".to_owned(), "there is no flag --purge-resources"),
        (&machine, "setup --leave-cluster".to_owned(), "there is no flag --leave-cluster"),
        (&machine, "uninstall --in-cluster".to_owned(), "there is no flag --in-cluster"),
        (&machine, "uninstall --purge-resources".to_owned(), "needs the cluster"),
        (&agent, format!("setup --endpoint {endpoint} --token-file {token}"), "no systemd runs here"),
        (&server, format!("setup --endpoint {endpoint} --token-file {token}"), "start k3s first"),
        (&server, format!("setup --endpoint {endpoint} --token-file {token} --in-cluster"), "start k3s first"),
    ] {
        let before = machine.listing();
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = machine.run(&arguments);
        says(&output, 2, &[words]);
        assert_eq!(machine.listing(), before, "{line}");
    }
    // A k3s agent that has systemd and no kubeconfig of an administrator.
    fs::create_dir_all(agent.path("run/systemd/system")).unwrap();
    let output = agent.run(&["setup", "--endpoint", endpoint, "--token-file", token]);
    says(&output, 2, &["this node is a k3s agent", "of the k3s server: /etc/rancher/k3s/k3s.yaml, with its address"]);
}

#[test]
fn on_a_terminal_it_asks_and_shows_no_token() {
    let machine = Machine::bare();
    machine.has_user_of_ours();
    // What cannot be a token is refused where it is typed, and nothing is begun.
    let before = machine.listing();
    let (is_done, text) = on_a_terminal(&machine, "two words\n");
    assert!(!is_done && text.contains("characters other than letters"), "{text}");
    assert_eq!(machine.listing(), before);
    let (is_done, text) = on_a_terminal(&machine, "abcdefghijklmnopqrstuv\n");
    assert!(is_done, "{text}");
    assert!(text.contains("https://control.example.org") && !text.contains("abcdefghijklmnopqrstuv"), "{text}");
    assert_eq!(machine.read("etc/pullet/credentials/pullet.token"), "abcdefghijklmnopqrstuv");
    assert!(machine.read("etc/pullet/pullet.toml").contains("endpoint = \"https://control.example.org\""));
}

/// What it shows to somebody who types the address and a token, and whether it was done.
fn on_a_terminal(machine: &Machine, token: &'static str) -> (bool, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_pullet"));
    let line = format!(
        "{} setup --no-start --target directory --directory /d --root {}",
        binary.display(),
        machine.root().display()
    );
    // A terminal of its own; what is written to `script` is typed there.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.stderr(Stdio::piped()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut shown = std::io::BufReader::new(child.stdout.take().unwrap());
    let text = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            use std::io::Read as _;
            let (mut text, mut byte, mut answers) = (String::new(), [0], vec![token, "https://control.example.org\n"]);
            // Each question is answered when it has been asked.
            while shown.read(&mut byte).is_ok_and(|count| count == 1) {
                text.push(char::from(byte[0]));
                if (text.ends_with(
                    "https://…): ".as_bytes().iter().map(|byte| char::from(*byte)).collect::<String>().as_str(),
                ) || text.ends_with("is not shown): "))
                    && let Some(answer) = answers.pop()
                {
                    keys.write_all(answer.as_bytes()).unwrap();
                }
            }
            text
        });
        reader.join().unwrap()
    });
    (child.wait().unwrap().success(), text)
}

#[test]
fn help_says_what_each_does() {
    for (command, words) in [("setup", "--in-cluster"), ("uninstall", "--purge-resources")] {
        let output = run_to_end({
            let mut command_line = Command::new(env!("CARGO_BIN_EXE_pullet"));
            command_line.args([command, "--help"]);
            command_line
        });
        says(&output, 0, &[&format!("Usage: pullet {command} "), words, "--dry-run", "--root DIR"]);
    }
}
