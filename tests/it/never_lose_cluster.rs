//! The whole agent between the control plane and a real API server, ended as a power cut ends it, at any moment: each job
//! is applied once, as the API server itself has written down, and answered once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::scene::broken_by_the_living;
use crate::testbed::job::{application_instance, config_map};
use crate::testbed::{JobRecord, State, Testbed};

const PATIENCE: Duration = Duration::from_secs(60);

/// Pseudo-random numbers of a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn on(testbed: &Testbed, api: &ApiServer, cluster: &str) -> Setup {
    Setup::of_cluster(testbed, cluster)
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--allow-kind", "/ConfigMap")
        .flag("--wait", "1")
}

/// Says what a controller would say of the object, another thing each time.
fn say(api: &ApiServer, path: &str, round: u64) {
    let ready = json!({
        "type": "Ready", "status": "True", "reason": format!("Round{round}"), "message": "as it is",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    });
    api.set_status(path, &json!({"observedGeneration": 1, "conditions": [ready]}));
}

fn acks(testbed: &Testbed) -> usize {
    testbed.wait_for("the state", PATIENCE, |state| Some(acks_in(state)))
}

/// Acked, and without a result.
fn is_open(job: &JobRecord) -> bool {
    !job.acks.is_empty() && job.result.is_none()
}

fn acks_in(state: &State) -> usize {
    state.jobs.iter().map(|job| job.acks.len()).sum()
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_agent_that_is_killed_at_random_moments_applies_each_job_once_to_a_cluster() {
    let kills = if std::env::var_os("PULLET_LONG").is_some() { 500 } else { 50 };
    let seed: u64 = std::env::var("PULLET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_127);
    println!("reproduce: PULLET_SEED={seed} tests/run applies_each_job_once_to_a_cluster");
    let mut random = Random(seed);
    let api = ApiServer::shared();
    let (testbed, cluster) = (Testbed::start(), format!("cluster-{}", unique()));
    let namespace = format!("shop-{}", unique());
    let setup = on(&testbed, api, &cluster);
    // A token that was used up while the power went is for a person to replace: not what this is about.
    let mut agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    api.apply_crds();
    let instance = testbed.apply(&cluster, application_instance(&format!("{namespace}-x"), "wiki"));
    testbed.ack_of(&instance, PATIENCE);
    let path = format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}-x/applicationinstances/wiki");
    wait_until("the object", || api.request(Method::GET, &path, None).0 == 200);
    agent.kill();
    let (mut jobs, mut names, mut amid) = (Vec::new(), Vec::new(), 0);
    for round in 0..kills {
        for job in 0..random.below(3) {
            // A short one stays in its page, a long one goes to the spool.
            let size = if random.below(4) == 0 { 20_000 } else { 10 };
            let name = format!("m{round}-{job}");
            jobs.push(testbed.apply(&cluster, config_map(&namespace, &name, &"v".repeat(size))));
            names.push(name);
        }
        let mut agent = setup.spawn();
        say(api, &path, round);
        let before = acks(&testbed);
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(random.below(400)));
        } else if amid == 0 {
            // A machine that does other things as well is late for what is short: one kill comes as soon as a job is open.
            let open = |state: &State| state.jobs.iter().any(|job| jobs.contains(&job.id) && is_open(job));
            testbed.try_wait_for(Duration::from_secs(20), |state| open(state).then_some(()));
        } else if testbed
            .try_wait_for(Duration::from_secs(1), |state| (acks_in(state) > before).then_some(()))
            .is_some()
        {
            // Around the apply, which is short.
            std::thread::sleep(Duration::from_millis(random.below(40)));
        }
        agent.kill();
        amid += usize::from(jobs.iter().any(|job| is_open(&testbed.job(job))));
    }
    // Nobody is there to hear of it: what is told of it is the present, after a loss.
    say(api, &path, kills);
    let mut agent = setup.spawn();
    for job in jobs.iter().chain([&instance]) {
        assert_eq!(testbed.result_of(job, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    }
    testbed.event("the present", PATIENCE, |event| event["conditions"][0]["reason"] == format!("Round{kills}"));
    // What is not there any more is bounded, and said.
    testbed.event("how many events may be lost", PATIENCE, |event| {
        let conditions = event["conditions"].as_array().into_iter().flatten();
        conditions.filter_map(|condition| condition["message"].as_str()).any(|message| message.contains("at most"))
    });
    stop(&mut agent);
    let cut = check_effects(api, &namespace, &names);
    println!(
        "{kills} kills, {amid} of them amid a job; {} jobs, each applied once, {cut} of them by a request that was cut",
        jobs.len()
    );
    assert!(amid > 0, "no kill came amid a job: this tests nothing");
    assert_eq!(broken_by_the_living(&testbed), Vec::<String>::new());
    let events = testbed.events();
    let keys: Vec<_> = events.iter().filter_map(|record| record.event["eventKey"].as_str()).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "two occurrences share a key");
}

fn stop(agent: &mut Agent) {
    let ended = agent.stop();
    assert!(ended.status.success(), "{ended:?}\n{}", agent.log());
}

/// Each object was made by one request, and none came after that: an apply of an object that is there is a 200, not a 201.
/// A request whose sender was killed is a 500 in the log, whether it was done or not: where no other one made the
/// object, it did. Gives how many those are.
fn check_effects(api: &ApiServer, namespace: &str, names: &[String]) -> usize {
    let log = || {
        api.audited("patch", namespace).into_iter().fold(BTreeMap::<_, Vec<u64>>::new(), |mut log, (name, code)| {
            log.entry(name).or_default().push(code);
            log
        })
    };
    // A line of the log can follow the answer.
    wait_until("the audit log has them all", || names.iter().all(|name| log().contains_key(name)));
    let log = log();
    assert_eq!(log.len(), names.len());
    let mut cut = 0;
    for (name, codes) in &log {
        api.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}"));
        let effect = effect_of(codes);
        cut += usize::from(effect == Effect::OnceCut);
        assert_ne!(effect, Effect::More, "{name} was applied more than once: {codes:?}");
    }
    cut
}

/// What the requests of one object came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// More than one was done, or none that is known to have made the object.
    More,
    /// One was done, and answered.
    Once,
    /// One was done whose sender was killed.
    OnceCut,
}

/// Reads the statuses of an object's requests in the audit log.
pub(crate) fn effect_of(codes: &[u64]) -> Effect {
    let done: Vec<u64> = codes.iter().copied().filter(|code| (200..300).contains(code)).collect();
    match done.as_slice() {
        [201] => Effect::Once,
        [] if codes.contains(&500) => Effect::OnceCut,
        _ => Effect::More,
    }
}
