//! After a loss the truth is sent anew, not the history: what waited goes first, then the present conditions of all that
//! is owned, and only then the agent polls.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pullet::target::{NamespaceRule, Target as _};
use serde_json::{Value, json};

use crate::agent::Setup;
use crate::apiserver::{ApiServer, unique};
use crate::kubernetes::{apply, namespace};
use crate::kubernetes_observe::Listener;
use crate::scene::{LATER, SOON, hit, quick};
use crate::testbed::job::{application_instance, config_map};
use crate::testbed::{Call, Fault, Seen, Testbed};

const BEGUN: &str = "the present conditions of all owned objects are sent";

const SENT: &str = "the present conditions of all owned objects were sent";

fn path(namespace: &str, name: &str) -> String {
    format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}/applicationinstances/{name}")
}

fn conditions(reason: &str) -> Value {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": reason, "message": "as it is", "lastTransitionTime": "2026-01-31T12:00:00Z"});
    json!({"observedGeneration": 1, "conditions": [condition("Ready", "True"), condition("Degraded", "False")]})
}

async fn is_gone(ticket: &Weak<()>) {
    let gone = async {
        while ticket.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("the ticket is gone");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn all_that_is_owned_is_reported_on_once_more_and_the_ticket_goes_with_the_last_report() {
    let server = ApiServer::shared();
    server.apply_crds();
    let (id, space) = (format!("cluster-{}", unique()), namespace("present"));
    // A kind that is not there has nothing to report, and holds up nobody.
    let kinds = ["apps.vworkspace.io/ApplicationInstance", "/ConfigMap", "nowhere.example/Thing"];
    let mut listener = Listener::start(server.kubeconfig(), &id, &kinds);
    for name in ["a", "b"] {
        let object = application_instance(&space, name);
        apply(&listener.target, &object, NamespaceRule::Managed).await.unwrap();
        server.set_status(&path(&space, name), &conditions("Installed"));
        listener.until("its conditions", |one| one.reference.name == name && one.conditions.len() == 2).await;
    }
    for round in 0..3 {
        let ticket = Arc::new(());
        let watch = Arc::downgrade(&ticket);
        listener.target.report_again(ticket);
        for name in ["a", "b"] {
            let again = listener.until(name, |one| one.again.is_some()).await;
            assert_eq!((again.reference.name.as_str(), again.conditions.len()), (name, 2));
            // The look behind an apply can have seen the conditions before the watch has.
            assert!(again.changed.is_empty() || round == 0, "it is no news");
        }
        is_gone(&watch).await;
    }
    server.set_status(&path(&space, "a"), &conditions("Upgraded"));
    let news = listener.until("what changes later", |one| !one.changed.is_empty()).await;
    assert!(news.reference.name == "a" && news.again.is_none());
    listener.stop().await;
}

/// Where the first request is that fits.
fn at(requests: &[Seen], what: &str, fits: impl Fn(&Seen) -> bool) -> usize {
    requests.iter().position(fits).unwrap_or_else(|| panic!("never asked: {what}"))
}

fn has(seen: &Seen, text: &str) -> bool {
    String::from_utf8_lossy(&seen.body).contains(text)
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn after_a_power_cut_what_waits_is_posted_then_the_present_and_then_the_agent_polls() {
    let api = ApiServer::shared();
    api.apply_crds();
    let (testbed, cluster) = (Testbed::start(), format!("cluster-{}", unique()));
    let space = format!("shop-{}", unique());
    let setup = Setup::of_cluster(&testbed, &cluster)
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--allow-kind", "/ConfigMap")
        .flag("--succeed-on", "applied")
        .flag("--wait", "1");
    let mut agent = setup.spawn();
    let job = testbed.apply(&cluster, application_instance(&space, "wiki"));
    testbed.result_of(&job, SOON);
    api.set_status(&path(&space, "wiki"), &conditions("Installed"));
    testbed.fault_until_cleared(Call::Result, Fault::status(503));
    let waiting = testbed.apply(&cluster, config_map(&space, "settings", "a"));
    hit(&testbed, Call::Result, SOON);
    agent.kill();
    testbed.clear_faults();
    let before = testbed.requests().len();
    let mut agent = setup.spawn();
    agent.wait_for_log(SENT, LATER);
    testbed.held_poll(SOON);
    let requests = testbed.requests().split_off(before);
    let result = at(&requests, "the result", |seen| seen.path.contains(&waiting));
    let poll = at(&requests, "a poll", |seen| seen.call == Some(Call::Jobs));
    for kind in ["Ready", "Degraded"] {
        let key = format!("ApplicationInstance/{space}/wiki/");
        let is_it = |seen: &Seen| has(seen, &key) && has(seen, &format!("/{kind}/")) && has(seen, "Installed");
        let present = at(&requests, kind, |seen| seen.call == Some(Call::Events) && is_it(seen));
        assert!(result < present && present < poll, "{kind}: {result}, {present}, {poll}");
    }
    assert_eq!(testbed.result_of(&waiting, SOON)["outcome"], "succeeded");
    // Nothing is lost at a stop, and so nothing is sent anew.
    setup.close(&mut agent);
    let mut agent = setup.spawn();
    agent.wait_for_log("connected to the control plane", SOON);
    testbed.held_poll(SOON);
    agent.stop();
    assert!(!agent.log().contains(BEGUN), "{}", agent.log());
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

/// The node is up before its API server, or without it: what cannot be told now holds up no job.
#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn without_an_api_server_the_agent_polls_and_the_present_follows_when_it_is_there() {
    let api = ApiServer::start();
    api.apply_crds();
    let (testbed, cluster) = (Testbed::start(), format!("cluster-{}", unique()));
    let space = format!("shop-{}", unique());
    let setup = Setup::of_cluster(&testbed, &cluster)
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--succeed-on", "applied")
        .flag("--wait", "1");
    let mut agent = setup.spawn();
    let job = testbed.apply(&cluster, application_instance(&space, "wiki"));
    testbed.result_of(&job, SOON);
    api.set_status(&path(&space, "wiki"), &conditions("Installed"));
    agent.kill();
    api.stop();
    let polls = testbed.counts().polls;
    let agent = setup.spawn();
    testbed.polls(polls + 2, LATER);
    assert!(agent.log().contains(BEGUN) && !agent.log().contains(SENT), "{}", agent.log());
    let before = testbed.requests().len();
    api.resume();
    agent.wait_for_log(SENT, LATER);
    let requests = testbed.requests().split_off(before);
    let key = format!("ApplicationInstance/{space}/wiki/");
    at(&requests, "the present", |seen| seen.call == Some(Call::Events) && has(seen, &key) && has(seen, "Installed"));
}

/// Where nothing reports, there is nothing to be sent, and nobody waits for it.
#[test]
fn a_directory_has_no_conditions_to_send() {
    let testbed = Testbed::start();
    let mut agent = quick(&testbed).spawn();
    testbed.held_poll(SOON);
    agent.wait_for_log(SENT, SOON);
    agent.stop();
    assert_eq!(testbed.violations(), Vec::<String>::new());
}
