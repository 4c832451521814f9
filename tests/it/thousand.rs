//! A thousand objects of ours whose conditions change in storms: the last word on each is told, and the API server is asked no
//! more for it than for one.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::Setup;
use crate::apiserver::{ApiServer, unique};
use crate::scene::LATER;
use crate::testbed::Testbed;
use crate::testbed::job::application_instance;

const INSTANCES: usize = 1_000;

const STORMS: usize = 3;

/// Writers at a time: as many as keep an API server of one core busy.
const WRITERS: usize = 4;

/// Requests for instances of this verb since the start of the API server, as it counts them itself.
fn requests(api: &ApiServer, verb: &str) -> u64 {
    let (code, text) = api.text("/metrics");
    assert_eq!(code, 200);
    let is_it = |line: &&str| {
        let has = |label: &str| line.contains(label);
        line.starts_with("apiserver_request_total{")
            && has(&format!("verb=\"{verb}\""))
            && has("resource=\"applicationinstances\"")
            && has("subresource=\"\"")
    };
    let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).unwrap();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the server counts in floats")]
    text.lines().filter(is_it).map(count).map(|count| count as u64).sum()
}

/// Does something with each of so many objects, several at a time.
fn with_each(count: usize, act: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let act = &act;
            scope.spawn(move || (writer..count).step_by(WRITERS).for_each(act));
        }
    });
}

/// Where the instances of a namespace are.
pub(crate) fn collection(space: &str) -> String {
    format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{space}/applicationinstances")
}

/// So many instances of a cluster, in a namespace that is made for them.
pub(crate) fn make(api: &ApiServer, cluster: &str, space: &str, count: usize) {
    api.create_namespace(space, &json!({"managed-by": "vworkspace"}));
    with_each(count, |number| {
        let mut object = application_instance(space, &format!("i{number}"));
        object["metadata"]["labels"] = json!({"app.vworkspace.io/cluster-id": cluster});
        api.create(&collection(space), &object);
    });
}

/// Gives each of them a condition, as its controller would.
pub(crate) fn storm(api: &ApiServer, space: &str, count: usize, status: &str, reason: &str) {
    with_each(count, |number| {
        let ready = json!({
            "type": "Ready", "status": status, "reason": reason, "message": "as it is", "lastTransitionTime": "2026-01-31T12:00:00Z",
        });
        let status = json!({"observedGeneration": 1, "conditions": [ready]});
        api.set_status(&format!("{}/i{number}", collection(space)), &status);
    });
}

/// Waits until this was told of each of them.
pub(crate) fn told(testbed: &Testbed, count: usize, reason: &str) {
    let is_it = |event: &Value| event["conditions"][0]["reason"] == reason;
    testbed.wait_for(reason, LATER, |state| {
        let told = state.events.iter().filter(|record| is_it(&record.event));
        let names: BTreeSet<&str> = told.filter_map(|record| record.event["resourceRef"]["name"].as_str()).collect();
        (names.len() == count).then_some(())
    });
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn of_a_thousand_instances_in_a_storm_the_last_word_on_each_is_told_and_none_is_asked_for() {
    let api = &ApiServer::start();
    api.apply_crds();
    let (testbed, cluster) = (Testbed::start(), format!("cluster-{}", unique()));
    make(api, &cluster, "shop", INSTANCES);
    let setup = Setup::of_cluster(&testbed, &cluster).flag("--kubeconfig", api.kubeconfig()).flag("--wait", "1");
    let mut agent = setup.spawn();
    agent.wait_for_log("the present conditions of all owned objects were sent", LATER);
    let (lists, gets) = (requests(api, "LIST"), requests(api, "GET"));
    for number in 1..=STORMS {
        storm(api, "shop", INSTANCES, if number == STORMS { "True" } else { "False" }, &format!("Storm{number}"));
    }
    told(&testbed, INSTANCES, &format!("Storm{STORMS}"));
    let events = testbed.events();
    let keys: BTreeSet<&str> = events.iter().filter_map(|record| record.event["eventKey"].as_str()).collect();
    assert_eq!(keys.len(), events.len(), "two occurrences share a key");
    let (lists, gets) = (requests(api, "LIST") - lists, requests(api, "GET") - gets);
    println!(
        "{INSTANCES} instances, {STORMS} storms: {} events told, {lists} pages listed and {gets} objects asked for amid them, RSS at \
         most {} kB",
        events.len(),
        agent.rss_peak_kb()
    );
    // A loss would have them listed once more: 20 pages.
    assert!(lists <= 40 && gets == 0, "{lists} lists, {gets} gets");
    assert_eq!(api.request(Method::GET, &format!("{}/i0", collection("shop")), None).0, 200);
    std::thread::sleep(Duration::from_secs(2));
    assert!(agent.stop().status.success(), "{}", agent.log());
    assert_eq!(testbed.violations(), Vec::<String>::new());
}
