//! What a later signed job made of an object of the API server is not brought back by an earlier one: the object says
//! itself from which job it is, and where that cannot be read nothing is put over it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pullet::limits;
use pullet::protocol::SIGNED_SEQ_ANNOTATION;
use serde_json::json;

use crate::agent::{Setup, run_to_end};
use crate::apiserver::{ApiServer, unique};
use crate::fake_api::{Asked, FakeApi, Out, answer};
use crate::scene::{LATER, SOON, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::owner::Owner;
use crate::testbed::{Job, Testbed};

/// An agent of an API server that does what this owner signed.
fn setup(testbed: &Testbed, cluster: &str, kubeconfig: impl AsRef<std::ffi::OsStr>, owner: &Owner) -> Setup {
    let setup = Setup::of_cluster(testbed, cluster);
    let file = setup.home().join("keyring");
    fs::write(&file, owner.keyring(1)).unwrap();
    setup
        .flag("--kubeconfig", kubeconfig)
        .flag("--keyring", file)
        .flag("--allow-kind", "/ConfigMap")
        .flag("--succeed-on", "applied")
        .flag("--wait", "1")
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_object_in_the_cluster_is_not_brought_back_by_an_older_job_also_after_the_disk_was_lost() {
    let (api, testbed, owner) = (ApiServer::shared(), Testbed::start(), Owner::new());
    let (cluster, namespace) = (format!("cluster-{}", unique()), format!("shop-{}", unique()));
    let setup = setup(&testbed, &cluster, api.kubeconfig(), &owner);
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/settings");
    let sign =
        |value: &str, seq| owner.sign_with_seq(&cluster, Job::apply(config_map(&namespace, "settings", value)), seq);
    let (withheld, withheld_longer) = (sign("old", 5), sign("older", 4));
    let mut agent = setup.spawn();
    succeeds(&testbed, &testbed.enqueue(&cluster, sign("new", 6)), LATER);
    let object = api.get(&path);
    let stamp = object["metadata"]["annotations"][SIGNED_SEQ_ANNOTATION].as_str().unwrap();
    assert!(stamp.contains('6'), "{stamp}");
    let is_rolled_back = |job: Job| {
        let result = testbed.result_of(&testbed.enqueue(&cluster, job), LATER);
        assert!(result["error"].as_str().unwrap_or_default().starts_with("RolledBack: "), "{result}");
        assert_eq!(api.get(&path)["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
    };
    is_rolled_back(withheld);

    // The node forgets every number, and a person says that nothing of them comes again. The object knows better.
    agent.stop();
    for name in ["journal", "checkpoint", "spool"] {
        fs::remove_file(setup.state_dir().join(name)).unwrap();
    }
    let mut agent = setup.spawn();
    agent.wait_for_log("LedgerLost", SOON);
    agent.stop();
    let mut doctor = setup.prepare("doctor");
    doctor.arg("--reset-ledger");
    says(&run_to_end(doctor), 0, &["pass again"]);
    let _agent = setup.spawn();
    is_rolled_back(withheld_longer);
    succeeds(&testbed, &testbed.enqueue(&cluster, sign("newest", 7)), LATER);
    assert_eq!(api.get(&path)["data"]["value"], "newest");
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

/// What an API server says of an object, where nobody can tell from which job it is.
const UNREADABLE: [(&str, &str, &str); 4] = [
    ("200 OK", r#"{"metadata":7}"#, "UnusableAnswer"),
    ("200 OK", "[]", "UnusableAnswer"),
    ("200 OK", "", "UnusableAnswer"),
    ("406 Not Acceptable", r#"{"kind":"Status","code":406,"message":"not so"}"#, "Invalid"),
];

fn unreadable(asked: &Asked, which: usize, out: Out<'_>) -> std::io::Result<()> {
    let kinds = json!({"resources": [{"name": "configmaps", "kind": "ConfigMap", "namespaced": true}]});
    let namespace = json!({"metadata": {"labels": {"managed-by": "vworkspace"}}});
    match (asked.method.as_str(), asked.path.split('?').next().unwrap_or_default()) {
        ("GET", "/readyz") => answer(out, "200 OK", "ok"),
        ("GET", "/api/v1") => answer(out, "200 OK", &kinds.to_string()),
        ("GET", "/api/v1/namespaces/n") => answer(out, "200 OK", &namespace.to_string()),
        ("GET", "/api/v1/namespaces/n/configmaps/settings") => match UNREADABLE.get(which) {
            Some(("200 OK", "", _)) => {
                answer(out, "200 OK", &" ".repeat(usize::try_from(limits::METADATA_BODY_BYTES).unwrap() + 1))
            }
            Some((status, body, _)) => answer(out, status, body),
            None => answer(out, "404 Not Found", r#"{"kind":"Status","code":404,"message":"not found"}"#),
        },
        ("PATCH", _) => answer(out, "200 OK", r#"{"metadata":{"uid":"u"}}"#),
        _ => answer(out, "404 Not Found", r#"{"kind":"Status","code":404,"message":"not found"}"#),
    }
}

#[test]
fn nothing_is_put_over_an_object_that_cannot_be_asked_which_job_made_it() {
    let which = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&which);
    let server = FakeApi::start(move |asked, out| unreadable(asked, now.load(Ordering::Relaxed), out));
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let setup = setup(&testbed, "c1", server.kubeconfig("{token: x}"), &owner);
    let _agent = setup.spawn();
    testbed.held_poll(SOON);
    let send = || testbed.enqueue("c1", owner.sign("c1", Job::apply(config_map("n", "settings", "x"))));
    let applies = || server.asked().iter().filter(|asked| asked.method == "PATCH").count();
    for (number, (status, body, reason)) in UNREADABLE.into_iter().enumerate() {
        which.store(number, Ordering::Relaxed);
        let result = testbed.result_of(&send(), LATER);
        let error = result["error"].as_str().unwrap_or_default();
        assert!(error.starts_with(&format!("{reason}: ")), "{status} {body}: {result}");
        assert_eq!(applies(), 0, "{status} {body}");
    }
    which.store(UNREADABLE.len(), Ordering::Relaxed);
    succeeds(&testbed, &send(), LATER);
    assert_eq!(applies(), 1, "what is not there is replaced by nobody");
}
